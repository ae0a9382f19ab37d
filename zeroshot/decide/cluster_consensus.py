"""Cluster consensus: call each cluster by the pooled scores of its cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import logsumexp

from zeroshot.decide.options import Pooling
from zeroshot.results.cell_scores import CellScores


@dataclass(frozen=True, kw_only=True)
class ClusterCall:
    """Call of a cluster.

    Attributes
    ----------
    cluster: name of the cluster
    n_cells: number of cells
    label, term_id: the call
    probability: probability of the call, pooled over the cells
    agreement: share of cells with the same call on their own
    runner_up, runner_up_probability: second best candidate
    """

    cluster: str
    n_cells: int
    label: str
    term_id: str
    probability: float
    agreement: float
    runner_up: str
    runner_up_probability: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Consensus:
    """Scores pooled over clusters.

    Attributes
    ----------
    cells: scores of each cell: those of its cluster, or its own if it is in none
    clusters: scores of each cluster, with every candidate stored for any of its cells
    codes: cluster of each cell, -1 for none, shape (n_cells,)
    calls: call of each cluster, in the order of `clusters`
    """

    cells: CellScores
    clusters: CellScores
    codes: np.ndarray
    calls: tuple[ClusterCall, ...]


def cluster_consensus(
    scores: CellScores, clusters: Sequence[str] | np.ndarray, *, pooling: Pooling = "mean"
) -> Consensus:
    """Pool scores over clusters.

    Parameters
    ----------
    scores: scores of single cells
    clusters: name of each cell's cluster, '' for none, shape (n_cells,)
    pooling: "mean" averages probabilities. "log" averages log-probabilities, as for independent
        observations: a cell with a very low probability for a label counts more.

    Raises
    ------
    ValueError
        If there is not one cluster name per cell, or no cell is in a cluster.
    """
    names, codes = cluster_codes(clusters)
    if len(codes) != len(scores):
        raise ValueError(f"clusters must have one name per cell ({len(scores)}), got {len(codes)}")
    if not names:
        raise ValueError("no cell is in a cluster: all cluster names are empty")
    inside = np.flatnonzero(codes >= 0)
    membership = sparse.csr_matrix(
        (np.ones(len(inside)), (codes[inside], inside)), shape=(len(names), len(scores))
    )
    pooled = _mean(scores, membership) if pooling == "mean" else _log_mean(scores, membership)
    table = scores.with_probabilities(pooled)
    width = max(
        2, int(scores.n_stored.max(initial=0))
    )  # as wide as the scores of cells, with a runner-up
    return Consensus(
        cells=broadcast_rows(table.best_only(width), codes, scores),
        clusters=table,
        codes=codes,
        calls=_calls(scores, table, names, codes),
    )


def cluster_codes(clusters: Sequence[str] | np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of clusters, numbers in numeric order, and the cluster index of each cell.

    >>> names, codes = cluster_codes(["10", "9", "", "9"])
    >>> names, codes.tolist()
    (('9', '10'), [1, 0, -1, 0])
    """
    distinct, inverse = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    order = sorted(range(len(distinct)), key=lambda each: _natural(str(distinct[each])))
    names = tuple(str(distinct[each]) for each in order if distinct[each])
    index = {name: row for row, name in enumerate(names)}
    codes = np.array([index.get(str(each), -1) for each in distinct], dtype=np.int64)
    return names, codes[inverse]


def _natural(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return not is_number, int(name) if is_number else 0, name


def broadcast_rows(table: CellScores, codes: np.ndarray, otherwise: CellScores) -> CellScores:
    """Return `table[code]` for each cell, or the row of the cell in `otherwise` if its code is -1."""
    rows = np.where(codes >= 0, codes, len(table) + np.arange(len(codes)))
    both = sparse.vstack([table.probabilities, otherwise.probabilities], format="csr")
    return otherwise.with_probabilities(both[rows])


def _mean(scores: CellScores, membership: sparse.csr_matrix) -> sparse.csr_matrix:
    sizes = np.asarray(membership.sum(axis=1)).ravel()
    return (sparse.diags(1 / sizes) @ membership @ scores.probabilities).tocsr()


def _log_mean(scores: CellScores, membership: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return geometric means, normalised over all candidates, for those stored for any cell."""
    sizes = np.asarray(membership.sum(axis=1)).ravel()
    stored = scores.probabilities
    floor = np.log(scores.unstored)  # (n_cells,)
    # Relative to the unstored candidates of the cell, so that the matrix stays sparse.
    excess = sparse.csr_matrix(
        (scores.log_stored - floor[scores.rows], stored.indices, stored.indptr), shape=stored.shape
    )
    pooled = (sparse.diags(1 / sizes) @ membership @ excess).tocsr()
    base = membership @ floor / sizes  # (n_clusters,)
    for row in range(pooled.shape[0]):
        part = slice(pooled.indptr[row], pooled.indptr[row + 1])
        logs = pooled.data[part] + base[row]
        n_unstored = pooled.shape[1] - len(logs)
        terms = np.append(logs, base[row] + np.log(n_unstored)) if n_unstored else logs
        pooled.data[part] = np.exp(logs - logsumexp(terms))
    return pooled


def _calls(
    scores: CellScores, table: CellScores, names: Sequence[str], codes: np.ndarray
) -> tuple[ClusterCall, ...]:
    inside = codes >= 0
    agrees = scores.best[inside] == table.best[codes[inside]]
    n_cells = np.bincount(codes[inside], minlength=len(names))
    n_agreeing = np.bincount(codes[inside], weights=agrees, minlength=len(names))
    candidates, probabilities = table.ranked(2)
    labels = np.array([*scores.candidate_names, ""], dtype=object)[candidates]  # (n_clusters, 2)
    term_ids = table.term_ids
    return tuple(
        ClusterCall(
            cluster=name,
            n_cells=int(n_cells[row]),
            label=str(table.names[row]),
            term_id=str(term_ids[row]),
            probability=float(probabilities[row, 0]),
            agreement=float(n_agreeing[row] / n_cells[row]),
            runner_up=str(labels[row, 1]),
            runner_up_probability=float(probabilities[row, 1]),
        )
        for row, name in enumerate(names)
    )
