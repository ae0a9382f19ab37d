"""Cells of each step from a corpus of shards, and what can be done to tokens to vary them."""

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
_VIEWS = 22  # third number of the seed sequence of what is done to tokens
_STATES_KEPT = 8  # more than the batches that Lightning asks for ahead


class ShardSource:
    """Hands out cells of shards; after a resumption those that would have come.

    Each process reads its own blocks. What varies a cell are genes that are left out, at random or
    because only a subset counts as measured; shards hold ranks, so counts cannot be drawn anew.

    Parameters
    ----------
    recipe
        Checked recipe.
    sampler
        What an epoch holds.
    types
        Numbers of types and aspects.
    variability
        Of each gene, for drawing subsets, shape (n_genes,).
    teacher_genes
        Genes that teachers read of a cell; 0 without teachers.
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
        """Yield the cells of this process for each step from the first on, without end.

        Raises
        ------
        ValueError
            If the run is resumed from a checkpoint that does not say where the shards stood.
        """
        stream = self._stream(world)
        if first and not self._state:
            raise ValueError("the checkpoint does not say where in the shards the run stood")
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
        """Return tokens of unmasked cells, drawn as those of a step are."""
        stream = self._stream(World())
        stream.load_state_dict({**stream.state_dict(), "epoch": _REFERENCE_EPOCH})
        found: list[np.ndarray] = []
        for number, batch in enumerate(stream):
            rng = np.random.default_rng([self.recipe.seed, _REFERENCE_EPOCH, _VIEWS, number])
            measured = self._measured(batch.cells)
            varied = vary(batch.cells, measured, self.recipe.augmentation, self._subsets, rng)
            found += varied.highest(self.recipe.model.max_genes).cells()
            if len(found) >= n_cells:
                return found[:n_cells]
        raise AssertionError("a stream has no end")

    def state_after(self, step: int) -> dict[str, Any]:
        """Return where the stream stood after a step."""
        return self._states.get(step, {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what `state_after` returned."""
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
        seed = [settings.seed, step, _VIEWS, world.rank]
        measured = self._measured(cells)
        first = vary(
            cells, measured, augmentation, self._subsets, np.random.default_rng([*seed, 0])
        )
        n_second = min(settings.losses.second_views // world.size, cells.n_cells)
        second = None
        if settings.losses.cell_cell and n_second:
            again = first.slice(0, n_second)
            if augmentation.second_draw:
                again, rng = cells.slice(0, n_second), np.random.default_rng([*seed, 1])
                again = vary(again, self._measured(again), augmentation, self._subsets, rng)
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


def vary(
    cells: PackedCells,
    measured: np.ndarray,
    augmentation: Augmentation,
    subsets: np.ndarray,
    rng: np.random.Generator,
) -> PackedCells:
    """Leave genes of cells out, as `augmentation.gene_dropout` and `.subset` say.

    Parameters
    ----------
    cells
        Whole cells.
    measured
        Genes that count as measured, bool, shape (n_cells, n_genes); narrowed in place where a
        subset is drawn.
    augmentation
        Chances.
    subsets
        From `gene_subsets`, bool, shape (n_subsets, n_genes).
    rng
        Random state.
    """
    n_cells, lengths = cells.n_cells, cells.lengths
    row = np.repeat(np.arange(n_cells), lengths)
    loss = rng.uniform(0, augmentation.gene_dropout, n_cells)
    kept = rng.random(len(cells.tokens)) >= loss[row]
    narrowed = rng.random(n_cells) < augmentation.subset
    subset = rng.integers(len(subsets), size=n_cells)
    inside = kept & subsets[subset[row], cells.tokens.astype(np.int64) - _FIRST_GENE]
    # A cell with fewer genes says nothing about its type; all its genes count then.
    narrowed &= np.bincount(row[inside], minlength=n_cells) >= MIN_GENES
    measured[narrowed] &= subsets[subset[narrowed]]
    kept = np.where(narrowed[row], inside, kept)
    return cells.keep(kept)
