"""Losses of language-cell pretraining, as functions of features.

The functions do not depend on a model or an ontology. Boolean matrices state which pairs are
positive, and which are to be ignored because their types are comparable in the ontology. Masked-gene,
cell-cell, contrastive and matching loss are those of LangCell (Zhao et al. 2024, arXiv 2405.06708);
the treatment of equal and comparable types, and the losses over a whole ontology, are of this project.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED = -100


def masked_gene_loss(logits: Tensor, labels: Tensor, measured: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the true genes at masked positions.

    Parameters
    ----------
    logits
        Scores over the vocabulary, shape (..., vocabulary).
    labels
        True token at masked positions, `IGNORED` (-100) elsewhere, shape (...).
    measured
        True if the gene was measured in the source of the cell; broadcasts against `logits`. Genes
        that were not measured are left out of the softmax. None: all genes.

    Returns
    -------
    Tensor
        Mean over masked positions; 0 with zero gradients if nothing is masked.
    """
    masked = labels != IGNORED
    if not bool(masked.any()):
        return logits.sum() * 0.0
    if measured is not None:
        logits = torch.where(measured, logits, _lowest(logits))
    return functional.cross_entropy(logits[masked].float(), labels[masked])


def cell_cell_loss(
    view_a: Tensor, view_b: Tensor, comparable: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Return the contrastive loss between two views of each cell, with other cells as negatives.

    SimCSE (Gao et al. 2021, equation 1), averaged over both directions. Cells of the same type or
    of comparable types (one an ancestor of the other) are not negatives of each other.

    Parameters
    ----------
    view_a, view_b
        Unit-norm features of the same cells, shape (n_cells, d).
    comparable
        True if the types of two cells are equal or comparable, shape (n_cells, n_cells).
    logit_scale
        Inverse temperature.

    Returns
    -------
    Tensor
        Scalar; 0 with zero gradients if no cell has a negative.
    """
    logits = logit_scale * view_a @ view_b.T  # (n_cells, n_cells)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.float().masked_fill(comparable & ~own, float(_lowest(logits.float())))
    target = torch.arange(len(logits), device=logits.device)
    both_ways = functional.cross_entropy(logits, target) + functional.cross_entropy(
        logits.T, target
    )
    return both_ways / 2


def multi_positive_contrastive_loss(
    cell_features: Tensor,
    text_features: Tensor,
    positives: Tensor,
    ignore: Tensor,
    logit_scale: Tensor | float,
    *,
    tile: int = 0,
) -> Tensor:
    """Return the symmetric contrastive loss between cells and the unique texts of a batch.

    Each positive pair is contrasted only with the negatives of its row, and averaged over the
    positives of the row. Two cells of one type thus never repel each other, and a batch with one
    type has loss 0, unlike with a softmax over all columns and soft targets.

    Parameters
    ----------
    cell_features
        Unit-norm features, shape (n_cells, d).
    text_features
        Unit-norm features of the distinct texts, shape (n_texts, d).
    positives
        True if the text describes the cell, shape (n_cells, n_texts).
    ignore
        True if the pair is neither positive nor negative, for example a text of an ancestor or a
        descendant of the type, shape (n_cells, n_texts). `positives` takes precedence.
    logit_scale
        Inverse temperature.
    tile
        Number of rows whose logits are in memory at once; they are recomputed for the gradient.
        0: all rows.

    Returns
    -------
    Tensor
        Mean of the two directions, each the mean over its rows that have a positive.
    """
    from_cells, n_cells = contrast_rows(
        cell_features, text_features, positives, ignore, logit_scale, tile=tile
    )
    from_texts, n_texts = contrast_rows(
        text_features, cell_features, positives.T, ignore.T, logit_scale, tile=tile
    )
    return (from_cells / n_cells.clamp(min=1) + from_texts / n_texts.clamp(min=1)) / 2


def contrast_rows(
    rows: Tensor,
    columns: Tensor,
    positives: Tensor,
    ignore: Tensor,
    logit_scale: Tensor | float,
    *,
    tile: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return one direction of `multi_positive_contrastive_loss`: sum over rows, number of rows.

    Only rows with a positive are counted. In distributed training the results of all processes are
    added up.

    Parameters
    ----------
    rows, columns
        Unit-norm features, shapes (n_rows, d) and (n_columns, d).
    positives, ignore
        As in `multi_positive_contrastive_loss`, shape (n_rows, n_columns).
    """

    def some(which: slice) -> Tensor:
        logits = (logit_scale * rows[which] @ columns.T).float()
        positive = positives[which]
        allowed = ~(positive | ignore[which])
        # A low finite number instead of -inf, for which logsumexp has no gradient.
        hardest = logits.masked_fill(~allowed, float(_lowest(logits))).logsumexp(1, keepdim=True)
        # Mean over the positives of softplus(lse(negatives) - positive).
        pairs = functional.softplus(hardest - logits) * positive
        return (pairs.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).sum()

    return _over_tiles(some, len(rows), tile), positives.any(dim=1).sum()


def sigmoid_contrastive_loss(
    cell_features: Tensor,
    text_features: Tensor,
    positives: Tensor,
    ignore: Tensor,
    logit_scale: Tensor | float,
    bias: Tensor | float,
    *,
    tile: int = 0,
) -> Tensor:
    """Return the sigmoid loss over independent pairs, as in SigLIP (Zhai et al. 2023, equation 3).

    Any number of texts may be positive for a cell. Processes need not exchange cells.

    Parameters
    ----------
    cell_features, text_features, positives, ignore, logit_scale, tile
        As in `multi_positive_contrastive_loss`.
    bias
        Added to every logit; initially negative, since most pairs are negative.

    Returns
    -------
    Tensor
        Sum over pairs that are not ignored, divided by the number of cells.
    """

    def some(which: slice) -> Tensor:
        logits = (logit_scale * cell_features[which] @ text_features.T + bias).float()
        signs = 2.0 * positives[which] - 1.0
        counts = positives[which] | ~ignore[which]
        return -(functional.logsigmoid(signs * logits) * counts).sum()

    return _over_tiles(some, len(cell_features), tile) / max(1, len(cell_features))


def _over_tiles(some: Callable[[slice], Tensor], n_rows: int, tile: int) -> Tensor:
    """Sum `some` over slices of `tile` rows, with activation checkpointing for each slice."""
    if not tile or n_rows <= tile:
        return some(slice(0, n_rows))
    parts = [
        checkpoint(some, slice(start, min(start + tile, n_rows)), use_reentrant=False)
        for start in range(0, n_rows, tile)
    ]
    return torch.stack(parts).sum()


def partial_positive_loss(
    cell_features: Tensor,
    label_features: Tensor,
    targets: Tensor,
    ignore: Tensor,
    logit_scale: Tensor | float,
    *,
    tile: int = 0,
) -> Tensor:
    """Return the cross-entropy of each cell over all labels of an ontology, with soft targets.

    The targets are the cell's own label and, with less weight, its ancestors, which are also true of
    the cell but less specific.

    Parameters
    ----------
    cell_features
        Unit-norm features, shape (n_cells, d).
    label_features
        Unit-norm features of all labels, shape (n_labels, d).
    targets
        Weight of each label for each cell, rows sum to 1, shape (n_cells, n_labels).
    ignore
        True for labels left out of the softmax (descendants: the cell may be of such a type), same
        shape. Must be False where the target is not 0.
    logit_scale
        Inverse temperature.
    tile
        As in `multi_positive_contrastive_loss`.
    """

    def some(which: slice) -> Tensor:
        logits = (logit_scale * cell_features[which] @ label_features.T).float()
        logits = logits.masked_fill(ignore[which], float(_lowest(logits)))
        # An ignored label has no weight, but 0 * its lowest logit would still be a large number.
        shares = logits.log_softmax(dim=1).masked_fill(ignore[which], 0)
        return -(targets[which] * shares).sum()

    return _over_tiles(some, len(cell_features), tile) / len(cell_features)


def subtree_loss(
    cell_features: Tensor,
    label_features: Tensor,
    targets: Tensor,
    below: Tensor,
    logit_scale: Tensor | float,
) -> Tensor:
    """Return the hierarchical cross-entropy over an ontology.

    The probability of a label is the softmax over labels, summed over the label and its descendants,
    as in hierarchical cross-entropy on a directed acyclic graph (Deng et al. 2014, HEX graphs,
    without exclusion edges). The loss is the weighted mean of its negative logarithm.

    Parameters
    ----------
    cell_features, label_features, targets, logit_scale
        As in `partial_positive_loss`.
    below
        1 if the row's label is the column's label or a descendant of it, shape (n_labels, n_labels).
    """
    logits = (logit_scale * cell_features @ label_features.T).float()
    mass = logits.softmax(dim=1) @ below  # (n_cells, n_labels)
    return -(targets * mass.clamp(min=1e-8).log()).sum(dim=1).mean()


def distillation_loss(
    cell_features: Tensor,
    label_features: Tensor,
    teacher_probabilities: Tensor,
    logit_scale: Tensor | float,
) -> Tensor:
    """Return the cross-entropy between the teacher's and the student's label probabilities.

    Hinton et al. 2015 (arXiv 1503.02531), equation 2, each at its own temperature.

    Parameters
    ----------
    cell_features, label_features, logit_scale
        Features and scale of the student, as in `partial_positive_loss`.
    teacher_probabilities
        Probabilities of the teacher, rows sum to 1, shape (n_cells, n_labels).
    """
    logits = (logit_scale * cell_features @ label_features.T).float()
    return -(teacher_probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean()


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of match (1) against mismatch (0).

    Parameters
    ----------
    logits
        Logits of the matching head, shape (n_pairs, 2).
    labels
        1 if the text describes the cell, else 0, shape (n_pairs,).
    """
    if len(labels) == 0:
        return logits.sum() * 0.0
    return functional.cross_entropy(logits.float(), labels)


def sample_hard_negatives(
    similarity: Tensor, allowed: Tensor, generator: torch.Generator
) -> Tensor:
    """Sample one hard negative per row, with probability by the softmax of similarity.

    As in BLIP (Li et al. 2022, section 3.2), over the allowed pairs.

    Parameters
    ----------
    similarity
        Scaled similarity, shape (n_rows, n_columns).
    allowed
        True if the column is a true negative of the row, same shape.
    generator
        Random state.

    Returns
    -------
    Tensor
        Column index per row, -1 if the row has no allowed column, shape (n_rows,), int64.

    Examples
    --------
    >>> allowed = torch.tensor([[False, True], [False, False]])
    >>> sample_hard_negatives(torch.zeros(2, 2), allowed, torch.Generator()).tolist()
    [1, -1]
    """
    chosen = torch.full((len(similarity),), -1, dtype=torch.int64, device=similarity.device)
    rows = allowed.any(dim=1)
    if bool(rows.any()):
        # NaN would abort the process on a GPU here; the loss reports it instead.
        known = similarity.detach().float().nan_to_num()
        scores = known.masked_fill(~allowed, -torch.inf)[rows]
        chosen[rows] = torch.multinomial(scores.softmax(dim=1), 1, generator=generator)[:, 0]
    return chosen


def _lowest(logits: Tensor) -> Tensor:
    # Half of the lowest number, so that the difference of two logits is finite.
    return torch.tensor(torch.finfo(logits.dtype).min / 2, dtype=logits.dtype, device=logits.device)
