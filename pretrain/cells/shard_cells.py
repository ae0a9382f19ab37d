"""Cell source that reads the cells of each step from shards, and augmentation of their tokens."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from langcell.tokens.packed_cells import PackedCells
from pretrain.cells.sampling import MIN_GENES, gene_subsets
from pretrain.cells.shard_batches import BatchRule
from pretrain.cells.shard_sampler import ShardSampler
from pretrain.cells.shard_stream import ShardLoader, ShardStream
from pretrain.cells.shard_types import ShardTypes
from pretrain.cells.step_cells import StepCells
from pretrain.parallel.gather import World
from pretrain.recipe.cell_config import Augmentation
from pretrain.recipe.config import Recipe

_FIRST_GENE = 2  # token of the first gene
_REFERENCE_EPOCH = 2**40  # beyond the end of any run
_AUGMENTATION = 22  # third number of the seed sequence of augmentation
_STATES_KEPT = 8  # more than the batches that Lightning prefetches


class ShardSource:
    """Cell source that reads shards and can be resumed at any step.

    Each process reads its own blocks. Augmentation drops genes at random, or keeps only a gene
    subset; shards hold ranks, so counts cannot be resampled.

    Parameters
    ----------
    recipe
        Checked recipe.
    sampler
        Sampler of the epochs.
    types
        Codes of types and aspects.
    variability
        Variability of each gene, for drawing gene subsets, shape (n_genes,).
    teacher_genes
        Maximum genes per cell of the teachers; 0 without teachers.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: ShardSampler,
        types: ShardTypes,
        variability: np.ndarray,
        *,
        teacher_genes: int = 0,
    ) -> None:
        self.recipe = recipe
        self.sampler = sampler
        self.types = types
        self.teacher_genes = teacher_genes
        self._subsets = gene_subsets(variability, recipe.augmentation, recipe.seed)
        self._state: dict[str, Any] = {}
        self._states: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def steps(self, first: int, world: World) -> Iterator[StepCells]:
        """Yield the cells of this process for each step from `first` on, endlessly.

        Raises
        ------
        ValueError
            If the run is resumed from a checkpoint without the position in the shards.
        """
        stream = self._stream(world)
        if first and not self._state:
            raise ValueError(
                "the checkpoint has no position in the shards, so the run cannot be resumed"
            )
        if self._state:
            stream.load_state_dict(self._state)
        self._states[first - 1] = stream.state_dict()
        loader = ShardLoader(stream, n_workers=self.recipe.shards.workers)
        for step, batch in zip(itertools.count(first), loader, strict=False):
            self._states[step] = stream.state_dict()
            while len(self._states) > _STATES_KEPT:
                self._states.popitem(last=False)
            yield self._cells(batch.cells, step, world)

    def reference_cells(self, n_cells: int) -> list[np.ndarray]:
        """Return the tokens of unmasked cells, drawn like those of a step."""
        stream = self._stream(World())
        stream.load_state_dict({**stream.state_dict(), "epoch": _REFERENCE_EPOCH})
        found: list[np.ndarray] = []
        for number, batch in enumerate(stream):
            rng = np.random.default_rng([self.recipe.seed, _REFERENCE_EPOCH, _AUGMENTATION, number])
            measured = self._measured(batch.cells)
            augmented = augment(batch.cells, measured, self.recipe.augmentation, self._subsets, rng)
            found += augmented.highest(self.recipe.model.max_genes).cells()
            if len(found) >= n_cells:
                return found[:n_cells]
        raise AssertionError("the stream is endless")

    def state_after(self, step: int) -> dict[str, Any]:
        """Return the position of the stream after a step."""
        return self._states.get(step, {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the position that `state_after` returned."""
        self._state = state

    def _stream(self, world: World) -> ShardStream:
        shards, optimisation = self.recipe.shards, self.recipe.optimisation
        rule = BatchRule(
            cells=optimisation.batch_size // world.size,
            tokens=shards.max_tokens // world.size,
            max_genes=self.recipe.model.max_genes,
            bucket=shards.bucket_cells,
            pool=shards.pool_cells,
        )
        return ShardStream(self.sampler, rule, rank=world.rank, world=world.size)

    def _cells(self, cells: PackedCells, step: int, world: World) -> StepCells:
        settings, augmentation = self.recipe, self.recipe.augmentation
        seed = [settings.seed, step, _AUGMENTATION, world.rank]
        measured = self._measured(cells)
        first = augment(
            cells, measured, augmentation, self._subsets, np.random.default_rng([*seed, 0])
        )
        n_second = min(settings.losses.second_views // world.size, cells.n_cells)
        second = None
        if settings.losses.cell_cell and n_second:
            again = first.slice(0, n_second)
            if augmentation.second_draw:
                again, rng = cells.slice(0, n_second), np.random.default_rng([*seed, 1])
                again = augment(again, self._measured(again), augmentation, self._subsets, rng)
            second = again.highest(settings.model.max_genes)
        terms = self.types.term[cells.columns["term"]]
        aspects = self.types.aspect[cells.columns["text"]]
        everyone = world.gather_objects((terms, aspects))
        return StepCells(
            step=step,
            tokens=first.highest(settings.model.max_genes),
            second=second,
            whole=first.highest(self.teacher_genes) if self.teacher_genes else None,
            measured=measured,
            terms=terms,
            aspects=aspects,
            all_terms=np.concatenate([each for each, _ in everyone]),
            all_aspects=np.concatenate([each for _, each in everyone]),
        )

    def _measured(self, cells: PackedCells) -> np.ndarray:
        return self.sampler.corpus.measured[cells.columns["file"]]


def augment(
    cells: PackedCells,
    measured: np.ndarray,
    augmentation: Augmentation,
    subsets: np.ndarray,
    rng: np.random.Generator,
) -> PackedCells:
    """Drop genes of cells, by `augmentation.gene_dropout` and `augmentation.subset`.

    Parameters
    ----------
    cells
        Whole cells.
    measured
        Measured genes, bool, shape (n_cells, n_genes); updated in place where a subset is drawn.
    augmentation
        Settings of the recipe.
    subsets
        From `gene_subsets`, bool, shape (n_subsets, n_genes).
    rng
        Random generator.
    """
    n_cells, lengths = cells.n_cells, cells.lengths
    row = np.repeat(np.arange(n_cells), lengths)
    loss = rng.uniform(0, augmentation.gene_dropout, n_cells)
    kept = rng.random(len(cells.tokens)) >= loss[row]
    narrowed = rng.random(n_cells) < augmentation.subset
    subset = rng.integers(len(subsets), size=n_cells)
    inside = kept & subsets[subset[row], cells.tokens.astype(np.int64) - _FIRST_GENE]
    # A cell with fewer genes does not identify its type; it keeps all its genes.
    narrowed &= np.bincount(row[inside], minlength=n_cells) >= MIN_GENES
    measured[narrowed] &= subsets[subset[narrowed]]
    kept = np.where(narrowed[row], inside, kept)
    return cells.keep(kept)
