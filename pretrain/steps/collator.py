"""From the cells of one training step to its tensors."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from langcell.genes.vocabulary import GeneVocabulary
from langcell.nn.losses import IGNORED
from langcell.tokens.packed_cells import PackedCells
from pretrain.cells.cell_types import CellTypes
from pretrain.cells.masking import mask_tokens
from pretrain.cells.step_cells import StepCells
from pretrain.parallel.gather import World
from pretrain.recipe.config import Recipe
from pretrain.texts.label_texts import LabelTexts
from pretrain.texts.text_table import TextTable, aspect_codes

# Third number of the seed sequences, apart from those of `sampling`.
_MASKS, _TEXTS, _LABELS, _LENGTH = range(10, 14)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepBatch:
    """Everything that one training step reads, in one process.

    Attributes
    ----------
    step
        Its number, from 0.
    input_ids, attention_mask
        n_cells masked cells, then the second, unmasked views of the first ones, both
        (n_cells + n_second, t).
    masked_rows, masked_columns, masked_genes
        Where a gene is to be predicted, and its token, shape (n_masked,).
    measured
        True where a cell's source measured the gene, shape (n_cells, n_genes).
    terms
        Type of each cell, shape (n_cells,).
    aspects
        Code of each further aspect, -1 where unknown, shape (n_cells, 3).
    texts
        Distinct texts drawn for the cells of all processes, rows of the text table, (n_texts,).
    whole_ids, whole_mask
        The n_cells cells unmasked, as teachers read them; None without teachers.
    linear
        Logits of the training types by the linear teacher, (n_cells, n_terms); None without one.
    labels
        Wording drawn for each label of the ontology, rows of `TextTensors.labels`, (n_labels,).
    """

    step: int
    input_ids: Tensor
    attention_mask: Tensor
    masked_rows: Tensor
    masked_columns: Tensor
    masked_genes: Tensor
    measured: Tensor
    terms: Tensor
    aspects: Tensor
    texts: Tensor
    labels: Tensor
    whole_ids: Tensor | None = None
    whole_mask: Tensor | None = None
    linear: Tensor | None = None

    @property
    def n_cells(self) -> int:
        """Count the cells, second views left out."""
        return len(self.terms)


class Collator:
    """Makes the batch of a step of its cells: masks genes, pads, draws texts.

    All that is random depends on the seed, the step and the process alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        vocabulary: GeneVocabulary,
        types: CellTypes,
        texts: TextTable,
        labels: LabelTexts,
    ) -> None:
        self.recipe = recipe
        self.vocabulary = vocabulary
        self.texts = texts
        self.labels = labels
        self._aspect_codes = aspect_codes(types)

    def build(self, cells: StepCells, world: World = World()) -> StepBatch:  # noqa: B008  a constant
        """Return a process's share of the batch of a step."""
        recipe, step, n_cells = self.recipe, cells.step, cells.tokens.n_cells
        views = [cells.tokens] if cells.second is None else [cells.tokens, cells.second]
        input_ids, attention_mask = self._collate(PackedCells.joined(views), step, world.rank)
        rng = self._rng(step, _MASKS, world.rank)
        # Genes beyond the positions have no state that could predict them.
        positions = (recipe.model.attended_genes or recipe.model.max_genes) + 1
        masked, hidden = mask_tokens(
            input_ids[:n_cells, :positions],
            recipe.augmentation.mask,
            rng,
            mask_id=self.vocabulary.mask_id,
            n_genes=self.vocabulary.n_genes,
        )
        input_ids[:n_cells, :positions] = masked
        rows, columns = np.nonzero(hidden != IGNORED)
        kept = rng.permutation(len(rows))[: recipe.losses.masked_positions // world.size]
        rows, columns = rows[kept], columns[kept]
        chosen = self.texts.choose(
            cells.all_terms, cells.all_aspects, recipe.text, self._rng(step, _TEXTS)
        )
        labels = self.labels.choose(recipe.text.definition, self._rng(step, _LABELS))
        whole_ids, whole_mask = self._whole(cells.whole)
        return StepBatch(
            step=step,
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            masked_rows=torch.from_numpy(rows),
            masked_columns=torch.from_numpy(columns),
            masked_genes=torch.from_numpy(hidden[rows, columns]),
            measured=torch.from_numpy(cells.measured),
            terms=torch.from_numpy(cells.terms),
            aspects=torch.from_numpy(self._aspect_codes[cells.aspects]),
            texts=torch.from_numpy(np.unique(chosen)),
            labels=torch.from_numpy(labels),
            whole_ids=whole_ids,
            whole_mask=whole_mask,
            linear=cells.linear,
        )

    def _whole(self, cells: PackedCells | None) -> tuple[Tensor | None, Tensor | None]:
        if cells is None:
            return None, None
        ids, mask = cells.padded(cls_id=self.vocabulary.cls_id, pad_id=self.vocabulary.pad_id)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _collate(self, cells: PackedCells, step: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Put CLS first and pad; in some steps keep a random subset of each cell's tokens."""
        rng = self._rng(step, _LENGTH, rank)
        # A length for the whole step: dropping tokens saves time only if all cells get shorter.
        # Full lengths come up too, so that every position is trained.
        share = rng.uniform(self.recipe.augmentation.keep_tokens, 1)
        width = max(1, round(share * self.recipe.model.max_genes))
        kept = np.ones(len(cells.tokens), dtype=bool)
        for row in np.flatnonzero(cells.lengths > width):
            start, stop = cells.offsets[row : row + 2]
            kept[start + rng.permutation(stop - start)[width:]] = False
        return cells.keep(kept).padded(cls_id=self.vocabulary.cls_id, pad_id=self.vocabulary.pad_id)

    def _rng(self, step: int, use: int, rank: int = 0) -> np.random.Generator:
        # The first process draws as one that trains alone.
        return np.random.default_rng([self.recipe.seed, step, use, *[rank] * bool(rank)])
