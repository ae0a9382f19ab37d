"""Collate the cells of a training step into the tensors of a batch."""

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

# Third number of the seed sequences, distinct from those of `sampling`.
_MASKS, _TEXTS, _LABELS, _LENGTH = range(10, 14)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepBatch:
    """Batch of one training step in one process.

    Attributes
    ----------
    step
        Step number, from 0.
    input_ids, attention_mask
        n_cells masked cells, then the unmasked second views of the first n_second cells, both
        (n_cells + n_second, t).
    masked_rows, masked_columns, masked_genes
        Positions of the masked genes, and their true tokens, shape (n_masked,).
    measured
        True where a cell's source measured the gene, shape (n_cells, n_genes).
    terms
        Type of each cell, shape (n_cells,).
    aspects
        Codes of tissue, disease and stage, -1 where unknown, shape (n_cells, 3).
    texts
        Distinct texts drawn for the cells of all processes, as rows of the text table, (n_texts,).
    unmasked_ids, unmasked_mask
        The n_cells unmasked cells for the teachers; None without teachers.
    linear
        Logits of the linear teacher over the training types, (n_cells, n_terms); None without one.
    labels
        Wording drawn for each label, as rows of `TextTensors.labels`, (n_labels,).
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
    unmasked_ids: Tensor | None = None
    unmasked_mask: Tensor | None = None
    linear: Tensor | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells without second views."""
        return len(self.terms)


class Collator:
    """Collator that masks genes, pads and draws texts for the cells of a step.

    Random draws depend only on the seed, the step and the process.
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
        """Return the batch of this process for a step."""
        recipe, step, n_cells = self.recipe, cells.step, cells.tokens.n_cells
        views = [cells.tokens] if cells.second is None else [cells.tokens, cells.second]
        input_ids, attention_mask = self._collate(PackedCells.joined(views), step, world.rank)
        rng = self._rng(step, _MASKS, world.rank)
        # Genes beyond the last position have no state to predict them from.
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
        unmasked_ids, unmasked_mask = self._unmasked(cells.whole)
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
            unmasked_ids=unmasked_ids,
            unmasked_mask=unmasked_mask,
            linear=cells.linear,
        )

    def _unmasked(self, cells: PackedCells | None) -> tuple[Tensor | None, Tensor | None]:
        if cells is None:
            return None, None
        ids, mask = cells.padded(cls_id=self.vocabulary.cls_id, pad_id=self.vocabulary.pad_id)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _collate(self, cells: PackedCells, step: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Add CLS and pad; in some steps keep a random subset of each cell's tokens."""
        rng = self._rng(step, _LENGTH, rank)
        # One length for the whole step: dropping tokens saves time only if all cells get shorter.
        # Full lengths occur too, so that every position is trained.
        share = rng.uniform(self.recipe.augmentation.keep_tokens, 1)
        width = max(1, round(share * self.recipe.model.max_genes))
        kept = np.ones(len(cells.tokens), dtype=bool)
        for row in np.flatnonzero(cells.lengths > width):
            start, stop = cells.offsets[row : row + 2]
            kept[start + rng.permutation(stop - start)[width:]] = False
        return cells.keep(kept).padded(cls_id=self.vocabulary.cls_id, pad_id=self.vocabulary.pad_id)

    def _rng(self, step: int, use: int, rank: int = 0) -> np.random.Generator:
        # Rank 0 draws the same as a single process.
        return np.random.default_rng([self.recipe.seed, step, use, *[rank] * bool(rank)])
