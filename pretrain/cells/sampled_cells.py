"""Cell source that draws the cells of each step from a corpus in memory."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from langcell.genes.vocabulary import GeneVocabulary
from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.tokenizer import ColumnGenes, RankTokenizer
from pretrain.cells.linear_teacher import LinearTeacher
from pretrain.cells.sampling import CellSampler, SampledCells
from pretrain.cells.step_cells import StepCells
from pretrain.parallel.gather import World
from pretrain.recipe.config import Recipe

_NO_STEP = 2**40  # beyond the end of any run


class SampledSource:
    """Cell source that draws the cells of a step as a pure function of the seed and the step.

    Processes that train together take consecutive slices of the same cells.

    Parameters
    ----------
    recipe
        Checked recipe.
    sampler
        Draws cells from the corpus.
    vocabulary
        Genes that become tokens.
    teacher_genes
        Maximum genes per cell of the teachers; 0 without teachers.
    linear_teacher
        Linear teacher, if any.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: CellSampler,
        vocabulary: GeneVocabulary,
        *,
        teacher_genes: int = 0,
        linear_teacher: LinearTeacher | None = None,
    ) -> None:
        self.recipe = recipe
        self.sampler = sampler
        self.tokenizer = RankTokenizer(vocabulary, max_genes=recipe.model.max_genes)
        self.teacher_tokenizer = (
            RankTokenizer(vocabulary, max_genes=teacher_genes) if teacher_genes else None
        )
        self.linear_teacher = linear_teacher
        tokens = vocabulary.token_ids(sampler.corpus.ensembl_ids)
        self._genes = ColumnGenes(
            tokens=tokens, medians=vocabulary.token_medians[tokens], first_columns=None
        )

    def steps(self, first: int, world: World) -> Iterator[StepCells]:
        """Yield the cells of this process for each step from `first` on, endlessly."""
        return (self.cells(step, world) for step in count(first))

    def cells(self, step: int, world: World) -> StepCells:
        """Return the cells of this process in a step."""
        corpus = self.sampler.corpus
        everyone = self.sampler.choose(step, self.recipe.optimisation.batch_size)
        share = world.share(len(everyone))
        examples = everyone[share]
        drawn = self.sampler.draw(examples, step, first=share.start)
        second = self._second_views(drawn, examples, step, share.start, world.size)
        return StepCells(
            step=step,
            tokens=self._tokens(drawn, self.tokenizer),
            second=self._tokens(second, self.tokenizer) if second else None,
            whole=self._tokens(drawn, self.teacher_tokenizer) if self.teacher_tokenizer else None,
            measured=drawn.measured,
            terms=corpus.term[examples],
            aspects=corpus.aspect[examples],
            all_terms=corpus.term[everyone],
            all_aspects=corpus.aspect[everyone],
            linear=self.linear_teacher.logits(drawn) if self.linear_teacher else None,
        )

    def reference_cells(self, n_cells: int) -> list[np.ndarray]:
        """Return the tokens of unmasked cells that no training step draws."""
        examples = self.sampler.choose(_NO_STEP, n_cells)
        return self._tokens(self.sampler.draw(examples, _NO_STEP), self.tokenizer).cells()

    def state_after(self, step: int) -> dict[str, Any]:
        """Return an empty state: the step number suffices."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Ignore the state."""

    def _second_views(
        self, drawn: SampledCells, examples: np.ndarray, step: int, first: int, n_processes: int
    ) -> SampledCells | None:
        n_second = min(self.recipe.losses.second_views // n_processes, len(examples))
        if not self.recipe.losses.cell_cell or not n_second:
            return None
        if self.recipe.augmentation.second_draw:
            return self.sampler.draw(examples[:n_second], step, view=1, first=first)
        return replace(
            drawn,
            examples=examples[:n_second],
            counts=drawn.counts[:n_second],
            measured=drawn.measured[:n_second],
        )

    def _tokens(self, drawn: SampledCells, tokenizer: RankTokenizer) -> PackedCells:
        block = tokenizer.tokenize_csr(drawn.counts, self._genes)
        return PackedCells(tokens=block.tokens, offsets=block.offsets, columns={})
