"""From drawn cells to the tensors of one training step."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langcell.genes import GeneVocabulary
from langcell.losses import IGNORED
from langcell.tokenizer import ColumnGenes, RankTokenizer, collate_tokens
from pretrain.config import Recipe
from pretrain.masking import mask_tokens
from pretrain.sampling import CellSampler, DrawnCells
from pretrain.texts import TextTable, aspect_codes

# Third number of the seed sequences, apart from those of `sampling`.
_MASKS, _TEXTS, _TABLE, _LENGTH = range(10, 14)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepBatch:
    """Everything that one training step reads.

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
        Distinct texts drawn for the cells, rows of the text table, shape (n_texts,).
    table
        Candidates that serve as further negatives, shape (n_extra,).
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
    table: Tensor

    @property
    def n_cells(self) -> int:
        """Count the cells, second views left out."""
        return len(self.terms)

    def to(self, device: torch.device) -> "StepBatch":
        """Return the batch on another device."""
        moved: dict[str, Any] = {
            item.name: value.to(device) if isinstance(value, Tensor) else value
            for item in fields(self)
            for value in [getattr(self, item.name)]
        }
        return StepBatch(**moved)


class StepBuilder:
    """Builds the batch of any step, as a pure function of the seed and the step."""

    def __init__(
        self,
        recipe: Recipe,
        sampler: CellSampler,
        vocabulary: GeneVocabulary,
        texts: TextTable,
        *,
        n_candidates: int,
    ) -> None:
        self.recipe = recipe
        self.sampler = sampler
        self.vocabulary = vocabulary
        self.texts = texts
        self.n_candidates = n_candidates
        self.tokenizer = RankTokenizer(vocabulary, max_genes=recipe.model.max_genes)
        tokens = vocabulary.token_ids(sampler.corpus.ensembl_ids)
        self._genes = ColumnGenes(
            tokens=tokens, medians=vocabulary.token_medians[tokens], first_columns=None
        )
        self._aspect_codes = aspect_codes(sampler.corpus)

    def build(self, step: int) -> StepBatch:
        """Return the batch of a step."""
        recipe, corpus = self.recipe, self.sampler.corpus
        examples = self.sampler.choose(step, recipe.optimisation.batch_size)
        drawn = self.sampler.draw(examples, step)
        second = self._second_views(drawn, examples, step)
        cells = [*self._tokens(drawn), *(self._tokens(second) if second else [])]
        input_ids, attention_mask = self._collate(cells, step)
        n_cells = len(examples)
        rng = self._rng(step, _MASKS)
        masked, labels = mask_tokens(
            input_ids[:n_cells],
            recipe.augmentation.mask,
            rng,
            mask_id=self.vocabulary.mask_id,
            n_genes=self.vocabulary.n_genes,
        )
        input_ids[:n_cells] = masked
        rows, columns = np.nonzero(labels != IGNORED)
        kept = rng.permutation(len(rows))[: recipe.losses.masked_positions]
        rows, columns = rows[kept], columns[kept]
        terms, aspect = corpus.term[examples], corpus.aspect[examples]
        chosen = self.texts.choose(terms, aspect, recipe.text, self._rng(step, _TEXTS))
        n_extra = min(recipe.losses.ontology_negatives, self.n_candidates)
        table = self._rng(step, _TABLE).choice(self.n_candidates, n_extra, replace=False)
        return StepBatch(
            step=step,
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            masked_rows=torch.from_numpy(rows),
            masked_columns=torch.from_numpy(columns),
            masked_genes=torch.from_numpy(labels[rows, columns]),
            measured=torch.from_numpy(drawn.measured),
            terms=torch.from_numpy(terms),
            aspects=torch.from_numpy(self._aspect_codes[aspect]),
            texts=torch.from_numpy(np.unique(chosen)),
            table=torch.from_numpy(table),
        )

    def _second_views(
        self, drawn: DrawnCells, examples: np.ndarray, step: int
    ) -> DrawnCells | None:
        n_second = min(self.recipe.losses.second_views, len(examples))
        if not self.recipe.losses.cell_cell or not n_second:
            return None
        if self.recipe.augmentation.second_draw:
            return self.sampler.draw(examples[:n_second], step, view=1)
        return replace(
            drawn,
            examples=examples[:n_second],
            counts=drawn.counts[:n_second],
            measured=drawn.measured[:n_second],
        )

    def _tokens(self, drawn: DrawnCells) -> list[np.ndarray]:
        block = self.tokenizer.tokenize_csr(drawn.counts, self._genes)
        return [block.cell(row) for row in range(block.n_cells)]

    def _collate(self, cells: list[np.ndarray], step: int) -> tuple[np.ndarray, np.ndarray]:
        """Put CLS first and pad; in some steps keep a random subset of each cell's tokens."""
        rng = self._rng(step, _LENGTH)
        # A length for the whole step: dropping tokens saves time only if all cells get shorter.
        # Full lengths come up too, so that every position is trained.
        share = rng.uniform(self.recipe.augmentation.keep_tokens, 1)
        width = max(1, round(share * self.recipe.model.max_genes))
        kept = [
            tokens[np.sort(rng.permutation(len(tokens))[:width])] if len(tokens) > width else tokens
            for tokens in cells
        ]
        return collate_tokens(kept, cls_id=self.vocabulary.cls_id, pad_id=self.vocabulary.pad_id)

    def _rng(self, step: int, use: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, step, use])
