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
from pretrain.gather import World
from pretrain.label_texts import LabelTexts
from pretrain.linear_teacher import LinearTeacher
from pretrain.masking import mask_tokens
from pretrain.sampling import CellSampler, DrawnCells
from pretrain.texts import TextTable, aspect_codes

# Third number of the seed sequences, apart from those of `sampling`.
_MASKS, _TEXTS, _LABELS, _LENGTH = range(10, 14)
_NO_STEP = 2**40  # beyond the end of any run


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

    def to(self, device: torch.device) -> "StepBatch":
        """Return the batch on another device."""
        moved: dict[str, Any] = {
            item.name: value.to(device) if isinstance(value, Tensor) else value
            for item in fields(self)
            for value in [getattr(self, item.name)]
        }
        return StepBatch(**moved)


class StepBuilder:
    """Builds the batch of any step, as a pure function of the seed and the step.

    Processes that train together take consecutive shares of the same cells.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampler: CellSampler,
        vocabulary: GeneVocabulary,
        texts: TextTable,
        labels: LabelTexts,
        *,
        teacher_genes: int = 0,
        linear_teacher: LinearTeacher | None = None,
    ) -> None:
        self.recipe = recipe
        self.sampler = sampler
        self.vocabulary = vocabulary
        self.texts = texts
        self.labels = labels
        self.tokenizer = RankTokenizer(vocabulary, max_genes=recipe.model.max_genes)
        self.teacher_tokenizer = (
            RankTokenizer(vocabulary, max_genes=teacher_genes) if teacher_genes else None
        )
        self.linear_teacher = linear_teacher
        tokens = vocabulary.token_ids(sampler.corpus.ensembl_ids)
        self._genes = ColumnGenes(
            tokens=tokens, medians=vocabulary.token_medians[tokens], first_columns=None
        )
        self._aspect_codes = aspect_codes(sampler.corpus)

    def build(self, step: int, world: World = World()) -> StepBatch:  # noqa: B008  a constant
        """Return a process's share of the batch of a step."""
        recipe, corpus = self.recipe, self.sampler.corpus
        everyone = self.sampler.choose(step, recipe.optimisation.batch_size)
        share = world.share(len(everyone))
        examples = everyone[share]
        drawn = self.sampler.draw(examples, step, first=share.start)
        second = self._second_views(drawn, examples, step, share.start, world.size)
        cells = [*self._tokens(drawn), *(self._tokens(second) if second else [])]
        input_ids, attention_mask = self._collate(cells, step, world.rank)
        n_cells = len(examples)
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
        terms, aspect = corpus.term[examples], corpus.aspect[examples]
        chosen = self.texts.choose(
            corpus.term[everyone], corpus.aspect[everyone], recipe.text, self._rng(step, _TEXTS)
        )
        labels = self.labels.choose(recipe.text.definition, self._rng(step, _LABELS))
        whole_ids, whole_mask = self._whole(drawn)
        return StepBatch(
            step=step,
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            masked_rows=torch.from_numpy(rows),
            masked_columns=torch.from_numpy(columns),
            masked_genes=torch.from_numpy(hidden[rows, columns]),
            measured=torch.from_numpy(drawn.measured),
            terms=torch.from_numpy(terms),
            aspects=torch.from_numpy(self._aspect_codes[aspect]),
            texts=torch.from_numpy(np.unique(chosen)),
            labels=torch.from_numpy(labels),
            whole_ids=whole_ids,
            whole_mask=whole_mask,
            linear=self.linear_teacher.logits(drawn) if self.linear_teacher else None,
        )

    def reference_cells(self, n_cells: int) -> list[np.ndarray]:
        """Return tokens of unmasked cells that no step sees, drawn as those of a step are."""
        return self._tokens(self.sampler.draw(self.sampler.choose(_NO_STEP, n_cells), _NO_STEP))

    def _second_views(
        self, drawn: DrawnCells, examples: np.ndarray, step: int, first: int, n_processes: int
    ) -> DrawnCells | None:
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

    def _whole(self, drawn: DrawnCells) -> tuple[Tensor | None, Tensor | None]:
        if self.teacher_tokenizer is None:
            return None, None
        ids, mask = collate_tokens(
            self._tokens(drawn, self.teacher_tokenizer),
            cls_id=self.vocabulary.cls_id,
            pad_id=self.vocabulary.pad_id,
        )
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _tokens(
        self, drawn: DrawnCells, tokenizer: RankTokenizer | None = None
    ) -> list[np.ndarray]:
        block = (tokenizer or self.tokenizer).tokenize_csr(drawn.counts, self._genes)
        return [block.cell(row) for row in range(block.n_cells)]

    def _collate(
        self, cells: list[np.ndarray], step: int, rank: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put CLS first and pad; in some steps keep a random subset of each cell's tokens."""
        rng = self._rng(step, _LENGTH, rank)
        # A length for the whole step: dropping tokens saves time only if all cells get shorter.
        # Full lengths come up too, so that every position is trained.
        share = rng.uniform(self.recipe.augmentation.keep_tokens, 1)
        width = max(1, round(share * self.recipe.model.max_genes))
        kept = [
            tokens[np.sort(rng.permutation(len(tokens))[:width])] if len(tokens) > width else tokens
            for tokens in cells
        ]
        return collate_tokens(kept, cls_id=self.vocabulary.cls_id, pad_id=self.vocabulary.pad_id)

    def _rng(self, step: int, use: int, rank: int = 0) -> np.random.Generator:
        # The first process draws as one that trains alone.
        return np.random.default_rng([self.recipe.seed, step, use, *[rank] * bool(rank)])
