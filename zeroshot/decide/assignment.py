"""Joint assignment: give each label to at most one member of a group."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from langcell.runtime.parameter_names import option
from zeroshot.decide.cluster_consensus import cluster_codes
from zeroshot.decide.options import WORTH
from zeroshot.results.cell_scores import CellScores

_MOST_ENTRIES = 50_000_000  # in the cost matrix of one group: 400 MB


def assign_labels(
    scores: CellScores, groups: Sequence[str] | np.ndarray, *, worth: float | None = WORTH
) -> CellScores:
    """Assign each label to at most one member of a group, with maximal joint probability.

    This is the optimal assignment on log-probabilities (scipy's `linear_sum_assignment`). A member
    stays without a label if its label would be less probable than `worth` times the geometric mean
    of the highest probabilities in the group.

    Parameters
    ----------
    scores: one row per member, a cell or a cluster
    groups: name of each member's group, '' for none, shape (n_members,)
    worth: above 0 and at most 1; None to give every member a label

    Returns
    -------
    Scores with at most one entry per row: the assigned label with its own probability. Members
    without a group keep their best candidate.

    Raises
    ------
    ValueError
        If there is not one group name per member, `worth` is out of range, or a group has more
        members than there are labels.
    """
    names, codes = cluster_codes(groups)
    if len(codes) != len(scores):
        raise ValueError(f"groups must have one name per member ({len(scores)}), got {len(codes)}")
    if worth is not None and not 0 < worth <= 1:
        raise ValueError(f"{option('worth')} must be above 0 and at most 1, got {worth}")
    assigned, probabilities = scores.best, scores.ranked(1)[1][:, 0].astype(np.float64)
    has_scores = scores.n_stored > 0
    for code, name in enumerate(names):
        members = np.flatnonzero((codes == code) & has_scores)
        table, candidates = _log_probabilities(scores, members, name)
        found = best_assignment(table, worth=worth)
        assigned[members] = np.where(found >= 0, candidates[found], -1)
        probabilities[members] = np.exp(table[np.arange(len(members)), found])
    kept = assigned >= 0
    return scores.with_probabilities(
        sparse.csr_matrix(
            (probabilities[kept], assigned[kept], np.append(0, np.cumsum(kept))),
            shape=scores.probabilities.shape,
        )
    )


def _log_probabilities(
    scores: CellScores, members: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities, shape (n_members, n_labels), and the candidate of each column."""
    n_members, n_candidates = len(members), scores.probabilities.shape[1]
    if n_members > n_candidates:
        raise ValueError(
            f"group {name!r} has {n_members} members, more than the {n_candidates} labels; name a "
            f"column of fewer clusters with {option('cluster_key')}, or use smaller groups"
        )
    stored = scores.probabilities[members]
    is_stored = np.zeros(n_candidates, dtype=bool)
    is_stored[stored.indices] = True
    # Other labels are equally probable for every member: n_members of them are enough.
    others = np.flatnonzero(~is_stored)[: max(0, n_members - int(is_stored.sum()))]
    is_stored[others] = True
    candidates = np.flatnonzero(is_stored)
    if n_members * (n_members + len(candidates)) > _MOST_ENTRIES:
        raise ValueError(
            f"group {name!r} has {n_members} members, too many to assign at once; name a column of "
            f"clusters with {option('cluster_key')}, or use smaller groups"
        )
    part = CellScores(
        probabilities=stored,
        candidate_ids=scores.candidate_ids,
        candidate_names=scores.candidate_names,
    )
    table = np.repeat(np.log(part.unstored)[:, None], len(candidates), axis=1)
    table[part.rows, np.searchsorted(candidates, stored.indices)] = part.log_stored
    return table, candidates


def best_assignment(log_probabilities: np.ndarray, *, worth: float | None = None) -> np.ndarray:
    """Return a distinct label for each member of one group, -1 for none.

    Parameters
    ----------
    log_probabilities: shape (n_members, n_labels)
    worth: as in `assign_labels`; None needs n_labels >= n_members

    Returns
    -------
    Column of each member, shape (n_members,)

    Examples
    --------
    >>> best_assignment(np.log([[0.6, 0.4], [0.9, 0.1]])).tolist()
    [1, 0]
    >>> best_assignment(np.log([[0.6, 0.4], [0.9, 0.1]]), worth=0.8).tolist()
    [-1, 0]
    """
    n_members, n_labels = log_probabilities.shape
    table = log_probabilities
    if worth is not None:
        unassigned = table.max(axis=1).mean() + np.log(worth) if table.size else 0.0
        table = np.hstack([table, np.full((n_members, n_members), unassigned)])
    columns = linear_sum_assignment(table, maximize=True)[1]
    return np.where(columns < n_labels, columns, -1)
