"""The losses of one step: features of cells and texts in, named scalars out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.features import CellFeatures, TextFeatures
from langcell.losses import (
    cell_cell_loss,
    distillation_loss,
    masked_gene_loss,
    matching_loss,
    multi_positive_contrastive_loss,
    partial_positive_loss,
    sample_hard_negatives,
    subtree_loss,
)
from langcell.model import LangCell
from pretrain.collate import StepBatch
from pretrain.config import Losses
from pretrain.negatives import text_pairs
from pretrain.teachers import Teachers

_SPECIAL_BEFORE, _SPECIAL_AFTER = 2, 1  # pad and mask stand before the genes, CLS after


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTensors:
    """What the frozen tower makes of every text, computed once.

    Attributes
    ----------
    pooled
        Texts of the text table before the projection, shape (n_texts, hidden).
    term, aspects
        Type and aspect codes of each text, shapes (n_texts,) and (n_texts, 3).
    templates
        Token states of the template of each type; row i belongs to type i.
    template_rows
        Row of `pooled` that holds the template of each type, shape (n_terms,).
    comparable
        Types that are equal or ancestor and descendant, shape (n_terms, n_terms).
    labels
        Pooled wordings of every label of the ontology, shape (n_wordings, hidden); see
        `LabelTexts`.
    descriptions
        Row of `labels` that holds the description of each label, shape (n_labels,).
    targets
        How true each label is of each type, shape (n_terms, n_labels); see `ancestor_targets`.
    label_comparable
        Labels that are equal, ancestor or descendant of each type, shape (n_terms, n_labels).
    below
        1 where the row's label is the column's or a descendant, shape (n_labels, n_labels); None
        where no loss reads it.
    """

    pooled: Tensor
    term: Tensor
    aspects: Tensor
    templates: TextFeatures
    template_rows: Tensor
    comparable: Tensor
    labels: Tensor
    descriptions: Tensor
    targets: Tensor
    label_comparable: Tensor
    below: Tensor | None


def training_losses(
    model: LangCell,
    batch: StepBatch,
    texts: TextTensors,
    weights: Losses,
    *,
    seed: int,
    teachers: Teachers | None = None,
) -> dict[str, Tensor]:
    """Return the losses that have a weight, unweighted, by name.

    One pass of the cell encoder serves all: masked cells for masked genes and cell-text, the second
    views of some of them for cell-cell and, being unmasked as at inference, for matching.
    """
    cells = model.encode_cell(batch.input_ids, batch.attention_mask)
    losses = {}
    if weights.masked_gene:
        losses["masked_gene"] = _masked_gene(model, batch, cells)
    if weights.cell_cell:
        losses["cell_cell"] = _cell_cell(model, batch, cells, texts)
    if weights.cell_text:
        losses["cell_text"] = _cell_text(model, batch, cells, texts)
    if weights.ontology:
        losses["ontology"] = _ontology(model, batch, cells, texts)
    if weights.distillation:
        losses["distillation"] = _distillation(model, batch, cells, texts, teachers)
    if weights.matching:
        generator = torch.Generator(device=cells.features.device)
        generator.manual_seed(seed * 1_000_003 + batch.step)
        losses["matching"] = _matching(
            model, batch, cells, texts, weights.matching_cells, generator
        )
    return losses


def _masked_gene(model: LangCell, batch: StepBatch, cells: CellFeatures) -> Tensor:
    states = cells.states[batch.masked_rows, batch.masked_columns]  # (n_masked, hidden)
    logits = model.masked_gene_logits(states)  # (n_masked, vocabulary)
    measured = torch.nn.functional.pad(batch.measured, (_SPECIAL_BEFORE, _SPECIAL_AFTER))
    return masked_gene_loss(logits, batch.masked_genes, measured[batch.masked_rows])


def _cell_cell(
    model: LangCell, batch: StepBatch, cells: CellFeatures, texts: TextTensors
) -> Tensor:
    n_cells = batch.n_cells
    second = cells.features[n_cells:]
    terms = batch.terms[: len(second)]
    comparable = texts.comparable[terms][:, terms]
    return cell_cell_loss(cells.features[: len(second)], second, comparable, model.scale)


def _cell_text(
    model: LangCell, batch: StepBatch, cells: CellFeatures, texts: TextTensors
) -> Tensor:
    n_second = len(cells.features) - batch.n_cells
    terms = torch.cat([batch.terms, batch.terms[:n_second]])
    aspects = torch.cat([batch.aspects, batch.aspects[:n_second]])
    positives, ignore = text_pairs(
        terms, aspects, texts.term[batch.texts], texts.aspects[batch.texts], texts.comparable
    )
    return multi_positive_contrastive_loss(
        cells.features,
        model.project_text(texts.pooled[batch.texts]),
        positives,
        ignore,
        model.scale,
    )


def _ontology(model: LangCell, batch: StepBatch, cells: CellFeatures, texts: TextTensors) -> Tensor:
    n_second = len(cells.features) - batch.n_cells
    terms = torch.cat([batch.terms, batch.terms[:n_second]])
    labels = model.project_text(texts.labels[batch.labels])  # (n_labels, d)
    targets = texts.targets[terms]  # (n_cells + n_second, n_labels)
    if texts.below is not None:
        return subtree_loss(cells.features, labels, targets, texts.below, model.scale)
    ignore = texts.label_comparable[terms] & (targets == 0)
    return partial_positive_loss(cells.features, labels, targets, ignore, model.scale)


def _distillation(
    model: LangCell,
    batch: StepBatch,
    cells: CellFeatures,
    texts: TextTensors,
    teachers: Teachers | None,
) -> Tensor:
    assert teachers is not None and batch.whole_ids is not None and batch.whole_mask is not None
    return distillation_loss(
        cells.features[: batch.n_cells],
        model.project_text(texts.labels[texts.descriptions]),
        teachers.probabilities(batch.whole_ids, batch.whole_mask, batch.linear),
        model.scale,
    )


def _matching(
    model: LangCell,
    batch: StepBatch,
    cells: CellFeatures,
    texts: TextTensors,
    n_wanted: int,
    generator: torch.Generator,
) -> Tensor:
    """Own template, a similar wrong template, and the own template with a similar wrong cell."""
    n_second = len(cells.features) - batch.n_cells
    # Unmasked views where there are enough, as at inference.
    first = batch.n_cells if n_second >= min(n_wanted, batch.n_cells) else 0
    n = min(n_wanted, batch.n_cells)
    features, terms = cells.features[first : first + n], batch.terms[:n]
    templates = model.project_text(texts.pooled[texts.template_rows])  # (n_terms, d)
    similarity = model.scale * features @ templates.T  # (n, n_terms)
    wrong_text = sample_hard_negatives(similarity, ~texts.comparable[terms], generator)
    own = similarity[:, terms].T  # row: template of cell i, column: cell j
    wrong_cell = sample_hard_negatives(own, ~texts.comparable[terms][:, terms], generator)
    rows = torch.arange(n, device=terms.device)
    has_text, has_cell = wrong_text >= 0, wrong_cell >= 0
    text_rows = torch.cat([terms, wrong_text[has_text], terms[has_cell]])
    cell_rows = torch.cat([rows, rows[has_text], wrong_cell[has_cell]]) + first
    labels = torch.zeros(len(text_rows), dtype=torch.int64, device=terms.device)
    labels[:n] = 1
    pairs = _take_texts(texts.templates, text_rows, templates[text_rows])
    logits = model.match(pairs, cells, cell_rows=cell_rows)
    return matching_loss(logits, labels)


def _take_texts(templates: TextFeatures, rows: Tensor, features: Tensor) -> TextFeatures:
    """Take some templates, cut to the longest of them; `features` are theirs already."""
    assert templates.attention_mask is not None
    mask = templates.attention_mask[rows]
    width = int(mask.sum(dim=1).max())
    return TextFeatures(
        input_ids=templates.input_ids[rows, :width],
        attention_mask=mask[:, :width],
        states=templates.states[rows, :width].to(features.dtype),
        pooled=templates.pooled,
        features=features,
    )
