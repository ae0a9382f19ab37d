"""Positive, negative and ignored pairs of cells and texts."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ontology.graph import Ontology


def comparable_terms(ontology: Ontology, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Return which pairs of terms are equal, or ancestor and descendant.

    Returns
    -------
    numpy.ndarray
        Bool, shape (len(first), len(second)).
    """
    rows = [ontology.index[ontology.check(term_id)] for term_id in first]
    columns = [ontology.index[ontology.check(term_id)] for term_id in second]
    up = ontology.closure[rows][:, columns]
    down = ontology.closure[columns][:, rows].T
    # Training types x candidates, not cells x genes: small.
    return (up + down).toarray().astype(bool)


def ancestor_targets(
    ontology: Ontology, terms: Sequence[str], labels: Sequence[str], decay: float
) -> np.ndarray:
    """Return the target distribution over labels for each type, float32, (n_terms, n_labels).

    A type's own label has weight 1, an ancestor `decay` to the power of its distance in edges, all
    others 0; rows are normalised to sum 1. With `decay` 0 the targets are one-hot.
    """
    place = {term_id: column for column, term_id in enumerate(labels)}
    weights = np.zeros((len(terms), len(labels)), dtype=np.float32)
    for row, term_id in enumerate(terms):
        for ancestor, edges in ontology.edges_up(term_id).items():
            if ancestor in place:
                weights[row, place[ancestor]] = decay**edges
    return weights / weights.sum(axis=1, keepdims=True)


def text_pairs(
    cell_terms: Tensor,
    cell_aspects: Tensor,
    text_terms: Tensor,
    text_aspects: Tensor,
    comparable: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return which texts describe which cells, and which pairs to ignore.

    A text describes a cell if it names the cell's type and no aspect that the cell lacks. Texts of
    comparable types, and of the same type with another tissue, disease or stage, are ignored: a
    "T cell" may well be a CD4 T cell, and authors call one tissue by several names.

    Parameters
    ----------
    cell_terms, text_terms
        Type of each cell (n_cells,) and text (n_texts,): rows of `comparable`.
    cell_aspects, text_aspects
        Codes of tissue, disease and stage, -1 where unknown or not named, shape (n, n_aspects).
    comparable
        From `comparable_terms`, shape (n_terms, n_terms).

    Returns
    -------
    tuple of Tensor
        positives and ignore, both bool, shape (n_cells, n_texts).
    """
    same_type = cell_terms[:, None] == text_terms[None, :]
    named = text_aspects[None, :, :] >= 0
    agrees = ~named | (cell_aspects[:, None, :] == text_aspects[None, :, :])
    positives = same_type & agrees.all(dim=2)
    ignore = comparable[cell_terms[:, None], text_terms[None, :]] & ~positives
    return positives, ignore
