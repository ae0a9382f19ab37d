"""Labels given once: parity with trying every way, and who stays without."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from zeroshot.decide.assignment import assign_labels, best_assignment
from zeroshot.results.cell_scores import CellScores


def _scores(table):
    table = np.asarray(table, dtype=np.float32)
    return CellScores(
        probabilities=sparse.csr_matrix(table),
        candidate_ids=tuple(f"CL:{i}" for i in range(table.shape[1])),
        candidate_names=tuple(f"type {i}" for i in range(table.shape[1])),
    )


def _brute_force(table, worth):
    """Return the largest sum that any assignment reaches."""
    n_members, n_labels = table.shape
    nobody = n_members if worth is not None else 0
    without = table.max(axis=1).mean() + np.log(worth or 1)
    return max(
        sum(table[row, label] if label < n_labels else without for row, label in enumerate(way))
        for way in permutations(range(n_labels + nobody), n_members)
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from([None, 0.01, 0.3, 1.0]),
)
def test_parity_with_trying_every_way(seed, n_members, n_more, worth):
    rng = np.random.default_rng(seed)
    table = np.log(rng.dirichlet(np.full(n_members + n_more, 0.5), n_members) + 1e-9)
    found = best_assignment(table, worth=worth)
    given_out = found[found >= 0]
    assert len(set(given_out)) == len(given_out)
    assert worth is not None or (found >= 0).all()
    without = table.max(axis=1).mean() + np.log(worth or 1)
    rows = np.arange(n_members)
    total = np.where(found >= 0, table[rows, found], without).sum()
    assert total == pytest.approx(_brute_force(table, worth))


def test_groups_are_assigned_apart_and_own_calls_kept_outside():
    table = [[0.6, 0.4, 0], [0.9, 0.1, 0], [0.7, 0.3, 0], [0.8, 0.2, 0]]
    found = assign_labels(_scores(table), ["x", "x", "y", ""], worth=None)
    assert found.best.tolist() == [1, 0, 0, 0]
    assert found.n_stored.tolist() == [1, 1, 1, 1]
    assert found.probabilities.data == pytest.approx([0.4, 0.9, 0.7, 0.8])


def test_who_would_have_to_take_much_less_gets_none():
    table = [[0.9, 0.05, 0.05], [0.95, 0.04, 0.01]]
    strict = assign_labels(_scores(table), ["x", "x"], worth=0.1)
    assert strict.best.tolist() == [-1, 0] and strict.names.tolist() == ["unassigned", "type 0"]
    lenient = assign_labels(_scores(table), ["x", "x"], worth=0.01)
    assert lenient.best.tolist() == [1, 0]


def test_who_fits_nothing_half_as_well_as_the_others_gets_none():
    table = [[0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.04]]
    assert assign_labels(_scores(table), ["x"] * 3, worth=0.2).best.tolist() == [0, 1, -1]
    assert assign_labels(_scores(table), ["x"] * 3, worth=0.05).best.tolist() == [0, 1, 2]


def test_a_label_that_no_one_stores_is_given_when_all_must_have_one():
    found = assign_labels(_scores([[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0]]), ["x"] * 3, worth=None)
    assert sorted(found.best.tolist()) == [0, 1, 2]
    assert found.best[0] == 0  # who has the most to lose


def test_a_row_without_scores_stays_without():
    found = assign_labels(_scores([[0.9, 0.1], [0, 0]]), ["x", "x"], worth=None)
    assert found.best.tolist() == [0, -1]


def test_what_cannot_be_is_refused():
    scores = _scores([[0.9, 0.1]] * 3)
    with pytest.raises(ValueError, match="group 'x' has 3 members, more than the 2 labels"):
        assign_labels(scores, ["x"] * 3)
    with pytest.raises(ValueError, match=r"one name per member \(3\), got 2"):
        assign_labels(scores, ["x"] * 2)
    with pytest.raises(ValueError, match="worth must be above 0 and at most 1, got 0"):
        assign_labels(scores, ["x", "y", "z"], worth=0)
