"""Matching loss over positive pairs of cells and texts and their hard negatives."""

import torch
from torch import Tensor

from langcell.model.langcell import LangCell
from langcell.nn.features import CellFeatures, TextFeatures
from langcell.nn.losses import matching_loss, sample_hard_negatives
from pretrain.steps.collator import StepBatch
from pretrain.texts.text_tensors import TextTensors


def match_pairs(
    model: LangCell,
    texts: TextTensors,
    batch: StepBatch,
    cells: CellFeatures,
    *,
    first: int,
    n_wanted: int,
    generator: torch.Generator,
) -> tuple[Tensor, int]:
    """Return the mean matching loss over pairs, and the number of pairs.

    Each cell is paired with its own template and a hard negative template, and its template with a
    hard negative cell. Negative cells come from this process only, so that no states need to be
    exchanged.

    Parameters
    ----------
    model, texts
        Model with the matching head, and the texts.
    batch
        Batch of the step.
    cells
        Features of consecutive rows of the batch, up to the last row.
    first
        Row of the batch that `cells` starts with.
    n_wanted
        Maximum number of cells to pair.
    generator
        Random generator.
    """
    n_second = len(batch.input_ids) - batch.n_cells
    # Use the unmasked second views if there are enough, as at inference.
    wanted = min(n_wanted, batch.n_cells)
    start = batch.n_cells if n_second >= wanted else 0
    # In a micro-batch, only its own cells.
    start = max(start, first)
    n = min(wanted, first + len(cells.features) - start)
    own_row = start - batch.n_cells if start >= batch.n_cells else start
    offset = start - first
    features, terms = cells.features[offset : offset + n], batch.terms[own_row : own_row + n]
    candidates, templates = _templates(model, texts, batch)  # (n_candidates,), (n_candidates, d)
    place = torch.searchsorted(candidates, terms)
    comparable = texts.comparable[terms]  # (n, n_terms)
    similarity = model.scale * features @ templates.T  # (n, n_candidates)
    wrong_text = sample_hard_negatives(similarity, ~comparable[:, candidates], generator)
    own = similarity[:, place].T  # row: template of cell i, column: cell j
    wrong_cell = sample_hard_negatives(own, ~comparable[:, terms], generator)
    rows = torch.arange(n, device=terms.device)
    has_text, has_cell = wrong_text >= 0, wrong_cell >= 0
    paired = torch.cat([place, wrong_text[has_text], place[has_cell]])
    cell_rows = torch.cat([rows, rows[has_text], wrong_cell[has_cell]]) + offset
    labels = torch.zeros(len(paired), dtype=torch.int64, device=terms.device)
    labels[:n] = 1
    used, text_rows = paired.unique(return_inverse=True)
    read = _paired_texts(model, texts, candidates[used], templates[used])
    logits = model.match(read, cells, text_rows=text_rows, cell_rows=cell_rows)
    return matching_loss(logits, labels), len(labels)


def _templates(model: LangCell, texts: TextTensors, batch: StepBatch) -> tuple[Tensor, Tensor]:
    """Return the types whose templates may be paired, ascending, and their features.

    With a frozen tower these are all types; with a trained one those of the batch, as in BLIP
    (arXiv 2201.12086). The features only select the hard negatives.
    """
    if texts.tokens is None:
        candidates = torch.arange(len(texts.template_rows), device=batch.terms.device)
        return candidates, model.project_text(texts.pooled[texts.template_rows])
    candidates = batch.terms.unique()
    with torch.no_grad():
        encoded = texts.tokens.encode(model, texts.template_rows[candidates])
    return candidates, encoded.features


def _paired_texts(
    model: LangCell, texts: TextTensors, terms: Tensor, features: Tensor
) -> TextFeatures:
    """Return the templates of some types for the matching head."""
    if texts.tokens is None:
        return _take_texts(texts.templates, terms, features)
    return texts.tokens.encode(model, texts.template_rows[terms])


def _take_texts(templates: TextFeatures, rows: Tensor, features: Tensor) -> TextFeatures:
    """Select templates, trimmed to the longest of them; `features` are those of `rows`."""
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
