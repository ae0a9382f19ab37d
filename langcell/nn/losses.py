"""The losses of language-cell pretraining, as functions on features.

No function here knows a model or an ontology: which pairs are positive, and which are
comparable in the ontology and therefore no evidence either way, arrives as boolean matrices.
The first four are those of LangCell (Zhao et al. 2024, arXiv 2405.06708); the treatment of equal
and comparable types, and the contrast with a whole ontology, are this project's.
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
        True where the source of the cell measured the gene; broadcasts against `logits`. A gene
        that was not measured is unknown, so it takes no part in the softmax. None: all genes.

    Returns
    -------
    Tensor
        Mean over masked positions; 0 with zero gradients when nothing is masked.
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
    """Return the contrast between two views of each cell, other cells being negatives.

    SimCSE (Gao et al. 2021, equation 1), averaged over both directions. Cells of the same type or
    of comparable types (one an ancestor of the other) are no negatives of each other.

    Parameters
    ----------
    view_a, view_b
        Unit-norm features of the same cells, shape (n_cells, d).
    comparable
        True where the types of two cells are equal or comparable, shape (n_cells, n_cells).
    logit_scale
        Inverse temperature.

    Returns
    -------
    Tensor
        Scalar; 0 with zero gradients when no cell has a negative.
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
    """Return the symmetric contrast between cells and the unique texts of a batch.

    Each positive pair competes with the negatives of its row alone; the positives of a row are
    averaged. So two cells of one type never push each other away, and a batch of one type has
    loss 0, which a softmax over all columns with a soft target would not give.

    Parameters
    ----------
    cell_features
        Unit-norm features, shape (n_cells, d).
    text_features
        Unit-norm features of the distinct texts, shape (n_texts, d).
    positives
        True where the text describes the cell, shape (n_cells, n_texts).
    ignore
        True where the pair is neither positive nor negative, for example a text of an ancestor or
        a descendant of the type, shape (n_cells, n_texts). Positives win over it.
    logit_scale
        Inverse temperature.
    tile
        Rows whose logits are in memory at once, computed again for the gradient; 0: all.

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
    """Return one direction of `multi_positive_contrastive_loss`: its sum over rows, and their number.

    Processes that hold some of the rows each add up what they get.

    Parameters
    ----------
    rows, columns
        Unit-norm features, shapes (n_rows, d) and (n_columns, d).
    positives, ignore
        As there, shape (n_rows, n_columns).
    """

    def some(which: slice) -> Tensor:
        logits = (logit_scale * rows[which] @ columns.T).float()
        positive = positives[which]
        allowed = ~(positive | ignore[which])
        # The lowest finite number stands for minus infinity: logsumexp of nothing has no gradient.
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
    """Return the contrast of each pair by itself, as SigLIP (Zhai et al. 2023, equation 3).

    Any number of texts may be positive for a cell. Cells of different processes need not meet.

    Parameters
    ----------
    cell_features, text_features, positives, ignore, logit_scale, tile
        As in `multi_positive_contrastive_loss`.
    bias
        Added to every logit; below 0 at first, as most pairs are negative.

    Returns
    -------
    Tensor
        Sum over pairs that are not ignored, by the number of cells.
    """

    def some(which: slice) -> Tensor:
        logits = (logit_scale * cell_features[which] @ text_features.T + bias).float()
        signs = 2.0 * positives[which] - 1.0
        counts = positives[which] | ~ignore[which]
        return -(functional.logsigmoid(signs * logits) * counts).sum()

    return _over_tiles(some, len(cell_features), tile) / max(1, len(cell_features))


def _over_tiles(some: Callable[[slice], Tensor], n_rows: int, tile: int) -> Tensor:
    """Add up what `some` makes of the rows, `tile` at a time, keeping no logits for the gradient."""
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
    """Return the contrast of each cell with every label of an ontology, ancestors part positive.

    Cross-entropy of the softmax over labels with a soft target: the cell's own label and, with
    less weight, its ancestors, which are true of the cell too but say less.

    Parameters
    ----------
    cell_features
        Unit-norm features, shape (n_cells, d).
    label_features
        Unit-norm features of all labels, shape (n_labels, d).
    targets
        Weight of each label for each cell, rows sum to 1, shape (n_cells, n_labels).
    ignore
        True where a label is no evidence either way (a descendant: the cell may be one), same
        shape. Where a target has weight it is False.
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
    """Return the hierarchical contrast: the mass at or below a label and each of its ancestors.

    The probability of a label is the sum over itself and all its descendants of the softmax over
    labels, as in hierarchical cross-entropy on a directed acyclic graph (Deng et al. 2014, HEX
    graphs, without exclusion edges); the loss is the weighted mean of minus its logarithm.

    Parameters
    ----------
    cell_features, label_features, targets, logit_scale
        As in `partial_positive_loss`.
    below
        1 where the row's label is the column's or one of its descendants, shape
        (n_labels, n_labels).
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
    """Return the cross-entropy of a teacher's probabilities of all labels and the student's.

    Hinton et al. 2015 (arXiv 1503.02531), equation 2, both at their own temperature.

    Parameters
    ----------
    cell_features, label_features, logit_scale
        Of the student, as in `partial_positive_loss`.
    teacher_probabilities
        Rows sum to 1, shape (n_cells, n_labels).
    """
    logits = (logit_scale * cell_features @ label_features.T).float()
    return -(teacher_probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean()


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of match (1) against mismatch (0).

    Parameters
    ----------
    logits
        Scores of the matching head, shape (n_pairs, 2).
    labels
        1 where text and cell belong together, else 0, shape (n_pairs,).
    """
    if len(labels) == 0:
        return logits.sum() * 0.0
    return functional.cross_entropy(logits.float(), labels)


def sample_hard_negatives(
    similarity: Tensor, allowed: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw one negative per row, the likelier the more similar it looks.

    As in BLIP (Li et al. 2022, section 3.2): by the softmax of the similarity, over allowed pairs.

    Parameters
    ----------
    similarity
        Scaled similarity, shape (n_rows, n_columns).
    allowed
        True where the column is a true negative of the row, same shape.
    generator
        Random state.

    Returns
    -------
    Tensor
        Column index per row, -1 where the row has no allowed column, shape (n_rows,), int64.

    Examples
    --------
    >>> allowed = torch.tensor([[False, True], [False, False]])
    >>> sample_hard_negatives(torch.zeros(2, 2), allowed, torch.Generator()).tolist()
    [1, -1]
    """
    chosen = torch.full((len(similarity),), -1, dtype=torch.int64, device=similarity.device)
    rows = allowed.any(dim=1)
    if bool(rows.any()):
        # What is not a number is for the loss to say; a GPU would end the process here.
        known = similarity.detach().float().nan_to_num()
        scores = known.masked_fill(~allowed, -torch.inf)[rows]
        chosen[rows] = torch.multinomial(scores.softmax(dim=1), 1, generator=generator)[:, 0]
    return chosen


def _lowest(logits: Tensor) -> Tensor:
    # Half of the lowest, so that a difference of two logits stays finite.
    return torch.tensor(torch.finfo(logits.dtype).min / 2, dtype=logits.dtype, device=logits.device)
