"""Training objective: the losses of a step by name, from features of cells and texts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.model.langcell import LangCell
from langcell.nn.features import CellFeatures
from langcell.nn.losses import (
    cell_cell_loss,
    contrast_rows,
    distillation_loss,
    masked_gene_loss,
    multi_positive_contrastive_loss,
    partial_positive_loss,
    sigmoid_contrastive_loss,
    subtree_loss,
)
from pretrain.parallel.gather import World
from pretrain.recipe.config import Losses
from pretrain.steps.collator import StepBatch
from pretrain.steps.match_pairs import match_pairs
from pretrain.steps.step_sizes import StepSizes
from pretrain.steps.teachers import Teachers
from pretrain.texts.negatives import text_pairs
from pretrain.texts.step_texts import StepTexts
from pretrain.texts.text_tensors import TextTensors

_SPECIAL_BEFORE, _SPECIAL_AFTER = 2, 1  # pad and mask come before the genes, CLS after


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """The losses of a run on the cells of this process, contrasted with those of all processes.

    Each loss is scaled so that its mean over processes equals the loss of one process with all
    cells, as gradients are averaged. Processes may have different numbers of cells.

    Attributes
    ----------
    model
        Model to train.
    texts
        Texts of the corpus and the ontology.
    weights
        Weights of the losses; losses of weight 0 are not computed.
    world
        Processes that train together.
    teachers
        Teachers of the distillation loss.
    bias
        Learnt bias of the sigmoid form of the cell-text contrast.
    seed
        Seed of the drawn negatives.
    """

    model: LangCell
    texts: TextTensors
    weights: Losses
    world: World = World()
    teachers: Teachers | None = None
    bias: Tensor | None = None
    seed: int = 0

    def text_rows(self, batch: StepBatch) -> Tensor:
        """Return the rows of `TextTokens` to encode with a trained tower; empty for a frozen one."""
        if self.texts.tokens is None:
            return batch.texts[:0]
        return self.texts.tokens.rows_of(
            batch.texts,
            batch.labels,
            with_texts=bool(self.weights.cell_text),
            with_labels=bool(self.weights.ontology),
        )

    def texts_of(self, batch: StepBatch, encoded: Tensor) -> StepTexts:
        """Return the texts that `of_features` reads.

        Parameters
        ----------
        batch
            Batch of the step.
        encoded
            `text_rows` encoded by a trained tower, (n_rows, hidden); empty for a frozen one.
        """
        texts, weights = self.texts, self.weights
        if texts.tokens is not None:
            n = len(batch.texts) if weights.cell_text else 0
            return StepTexts(pooled=encoded[:n], labels=encoded[n:])
        return StepTexts(
            pooled=texts.pooled[batch.texts] if weights.cell_text else texts.pooled[:0],
            labels=texts.labels[batch.labels] if weights.ontology else texts.labels[:0],
        )

    def of_features(
        self, batch: StepBatch, sizes: StepSizes, features: Tensor, texts: StepTexts
    ) -> dict[str, Tensor]:
        """Return the losses that read only the features of cells, unweighted, by name.

        Parameters
        ----------
        batch, sizes
            Batch of the step, and its sizes by process.
        features
            Features of cells and second views, shape (n_cells + n_second, d).
        texts
            From `texts_of`.
        """
        taught = self._teacher_probabilities(batch) if self.weights.distillation else None
        features = features.float()
        losses = {
            "cell_cell": lambda: self._cell_cell(batch, sizes, features),
            "cell_text": lambda: self._cell_text(batch, sizes, features, texts.pooled.float()),
            "ontology": lambda: self._ontology(batch, sizes, features, texts.labels.float()),
            "distillation": lambda: self._distillation(batch, sizes, features, taught),
        }
        # Half precision has three digits, too few for similarities times the logit scale.
        with torch.autocast(features.device.type, enabled=False):
            return {name: loss() for name, loss in losses.items() if getattr(self.weights, name)}

    def of_states(
        self,
        batch: StepBatch,
        sizes: StepSizes,
        cells: CellFeatures,
        rows: slice = slice(None),
    ) -> dict[str, Tensor]:
        """Return the losses that read the states of cells, unweighted, by name.

        Parameters
        ----------
        batch, sizes
            Batch of the step, and its sizes by process.
        cells
            Features of consecutive rows of the batch.
        rows
            These rows. Losses of micro-batches add up to those of the batch; matching is computed
            in the last one only, which has the second views.
        """
        first, stop, _ = rows.indices(len(batch.input_ids))
        losses = {}
        if self.weights.masked_gene:
            losses["masked_gene"] = self._masked_gene(batch, sizes, cells, first, stop)
        if self.weights.matching and stop == len(batch.input_ids):
            generator = torch.Generator(device=cells.features.device)
            generator.manual_seed(
                (self.seed * 1_000_003 + batch.step) * self.world.size + self.world.rank
            )
            loss, n_pairs = match_pairs(
                self.model,
                self.texts,
                batch,
                cells,
                first=first,
                n_wanted=self.weights.matching_cells,
                generator=generator,
            )
            n_all = self.world.total(torch.tensor(n_pairs, device=loss.device))
            losses["matching"] = loss * self.world.weight(n_pairs, int(n_all))
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the losses."""
        return torch.stack(
            [getattr(self.weights, name) * each for name, each in losses.items()]
        ).sum()

    def _masked_gene(
        self, batch: StepBatch, sizes: StepSizes, cells: CellFeatures, first: int, stop: int
    ) -> Tensor:
        inside = (batch.masked_rows >= first) & (batch.masked_rows < stop)
        rows = batch.masked_rows[inside]
        states = cells.states[rows - first, batch.masked_columns[inside]]  # (n_masked, hidden)
        logits = self.model.masked_gene_logits(states)  # (n_masked, vocabulary)
        measured = torch.nn.functional.pad(batch.measured, (_SPECIAL_BEFORE, _SPECIAL_AFTER))
        loss = masked_gene_loss(logits, batch.masked_genes[inside], measured[rows])
        return loss * self.world.weight(len(rows), sum(sizes.masked))

    def _cell_cell(self, batch: StepBatch, sizes: StepSizes, features: Tensor) -> Tensor:
        n_second = len(features) - batch.n_cells
        first = self.world.gather(features[:n_second], sizes.second)
        second = self.world.gather(features[batch.n_cells :], sizes.second)
        terms = self.world.gather(batch.terms[:n_second], sizes.second)
        comparable = self.texts.comparable[terms][:, terms]
        # Every process computes the whole loss: its gradient is summed over processes, then averaged.
        return cell_cell_loss(first, second, comparable, self.model.scale)

    def _cell_text(
        self, batch: StepBatch, sizes: StepSizes, features: Tensor, pooled: Tensor
    ) -> Tensor:
        n_second = len(features) - batch.n_cells
        terms = torch.cat([batch.terms, batch.terms[:n_second]])
        aspects = torch.cat([batch.aspects, batch.aspects[:n_second]])
        texts = self.model.project_text(pooled)
        scale, tile = self.model.scale, self.weights.tile
        positives, ignore = self._pairs(terms, aspects, batch.texts)
        if self.weights.contrast == "sigmoid":
            assert self.bias is not None
            loss = sigmoid_contrastive_loss(
                features, texts, positives, ignore, scale, self.bias, tile=tile
            )
            return loss * self.world.weight(len(features), sum(sizes.rows))
        if self.world.size == 1:
            return multi_positive_contrastive_loss(
                features, texts, positives, ignore, scale, tile=tile
            )
        # All processes have the texts: each contrasts its cells with all texts, and its share of the
        # texts with all cells.
        from_cells, n_cells = contrast_rows(features, texts, positives, ignore, scale, tile=tile)
        everyone, all_terms, all_aspects = (
            self.world.gather(each, sizes.rows) for each in (features, terms, aspects)
        )
        mine = self.world.share(len(batch.texts))
        positives, ignore = self._pairs(all_terms, all_aspects, batch.texts[mine])
        from_texts, n_texts = contrast_rows(
            texts[mine], everyone, positives.T, ignore.T, scale, tile=tile
        )
        parts = ((from_cells, n_cells), (from_texts, n_texts))
        means = [each / self.world.total(n).clamp(min=1) for each, n in parts]
        return self.world.size * (means[0] + means[1]) / 2

    def _pairs(self, terms: Tensor, aspects: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        texts = self.texts
        return text_pairs(terms, aspects, texts.term[rows], texts.aspects[rows], texts.comparable)

    def _ontology(
        self, batch: StepBatch, sizes: StepSizes, features: Tensor, pooled: Tensor
    ) -> Tensor:
        texts, scale = self.texts, self.model.scale
        terms = torch.cat([batch.terms, batch.terms[: len(features) - batch.n_cells]])
        labels = self.model.project_text(pooled)  # (n_labels, d)
        targets = texts.targets[terms]  # (n_cells + n_second, n_labels)
        if texts.descendants is not None:
            loss = subtree_loss(features, labels, targets, texts.descendants, scale)
        else:
            ignore = texts.label_comparable[terms] & (targets == 0)
            loss = partial_positive_loss(
                features, labels, targets, ignore, scale, tile=self.weights.tile
            )
        return loss * self.world.weight(len(features), sum(sizes.rows))

    def _teacher_probabilities(self, batch: StepBatch) -> Tensor:
        """Return the label probabilities of the teachers, (n_cells, n_labels)."""
        assert self.teachers is not None
        assert batch.unmasked_ids is not None and batch.unmasked_mask is not None
        return self.teachers.probabilities(batch.unmasked_ids, batch.unmasked_mask, batch.linear)

    def _distillation(
        self, batch: StepBatch, sizes: StepSizes, features: Tensor, taught: Tensor | None
    ) -> Tensor:
        assert taught is not None
        labels = self.model.project_text(self.texts.labels[self.texts.descriptions])
        loss = distillation_loss(features[: batch.n_cells], labels, taught, self.model.scale)
        return loss * self.world.weight(batch.n_cells, sum(sizes.cells))
