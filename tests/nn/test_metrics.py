import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn import metrics as reference

from langcell.nn import metrics

# 0 root; 1, 2 under the root; 3, 4 under 1; 5 under 3.
PARENTS = {0: (), 1: (0,), 2: (0,), 3: (1,), 4: (1,), 5: (3,)}


def _ancestors(node: int) -> set[int]:
    return {node}.union(*(_ancestors(parent) for parent in PARENTS[node]))


@pytest.fixture
def closure() -> sparse.csr_matrix:
    matrix = np.zeros((6, 6), dtype=bool)
    for node in PARENTS:
        matrix[node, list(_ancestors(node))] = True
    return sparse.csr_matrix(matrix)


pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 5)), min_size=1, max_size=60).map(
    lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows]))
)


@given(pairs)
def test_flat_metrics_equal_sklearn(pair):
    truth, called = pair
    assert metrics.accuracy(truth, called) == pytest.approx(reference.accuracy_score(truth, called))
    sizes = np.bincount(truth)
    for min_cells in (1, 5):
        labels = [each for each in np.unique(truth) if sizes[each] >= min_cells]
        got = metrics.macro_f1(truth, called, min_cells=min_cells)
        if labels:
            wanted = reference.f1_score(
                truth, called, labels=labels, average="macro", zero_division=0
            )
            assert got == pytest.approx(wanted)
        else:
            assert np.isnan(got)
    recall = reference.recall_score(
        truth, called, labels=np.unique(truth), average="macro", zero_division=0
    )
    assert metrics.balanced_accuracy(truth, called) == pytest.approx(recall)


def test_no_call_is_never_right():
    assert metrics.accuracy(np.array([-1, 0]), np.array([-1, 0])) == 0.5


def test_macro_f1_leaves_small_classes_out_of_the_mean_only():
    truth = np.array([0] * 10 + [1] * 2)
    called = np.array([0] * 10 + [0] * 2)
    # Class 0: 10 hits, 2 false calls from the class that is too small to be averaged.
    assert metrics.macro_f1(truth, called) == pytest.approx(20 / 22)
    assert metrics.macro_f1(truth, called, min_cells=1) == pytest.approx(10 / 22)


def test_top_k():
    ranked = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])
    truth = np.array([0, 0, 0])
    assert [metrics.top_k_accuracy(truth, ranked, k=k) for k in (1, 2, 3)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )
    with pytest.raises(ValueError, match=r"ranked must have shape \(3, n_ranked\)"):
        metrics.top_k_accuracy(truth, ranked[:2])


def test_majority():
    assert metrics.majority_accuracy(np.array([3, 3, 3, 1])) == 0.75


def test_a_subtype_of_the_truth_is_right_and_a_parent_is_wrong(closure):
    truth = np.array([1, 1, 3, 2, 2, 1])
    called = np.array([5, 1, 1, 3, 2, -1])
    assert metrics.is_descendant(truth, called, closure).tolist() == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert metrics.descendant_accuracy(truth, called, closure) == 0.5


def test_hierarchical_f1_by_hand(closure):
    # truth 5 = {5, 3, 1}, call 4 = {4, 1}: one shared. truth 2 = {2}, no call.
    score = metrics.hierarchical_f1(np.array([5, 2]), np.array([4, -1]), closure, root=0)
    assert score.precision == pytest.approx(1 / 2)
    assert score.recall == pytest.approx(1 / 4)
    assert score.f1 == pytest.approx(2 * 0.5 * 0.25 / 0.75)


@given(pairs)
def test_hierarchical_f1_equals_the_sum_over_cells(pair):
    truth, called = pair
    matrix = np.zeros((6, 6), dtype=bool)
    for node in PARENTS:
        matrix[node, list(_ancestors(node))] = True
    sets = [
        (_ancestors(t) - {0}, _ancestors(c) - {0} if c >= 0 else set())
        for t, c in zip(truth, called, strict=True)
    ]
    shared = sum(len(a & b) for a, b in sets)
    n_called, n_true = sum(len(b) for _, b in sets), sum(len(a) for a, _ in sets)
    score = metrics.hierarchical_f1(truth, called, sparse.csr_matrix(matrix), root=0)
    assert score.precision == pytest.approx(shared / n_called if n_called else 0.0)
    assert score.recall == pytest.approx(shared / n_true if n_true else 0.0)


def test_ontology_distance_takes_a_matrix_or_a_function():
    steps = np.abs(np.arange(6)[:, None] - np.arange(6)[None, :]).astype(float)
    truth, called = np.array([0, 0, 3, 4]), np.array([2, 0, 4, -1])
    assert metrics.ontology_distance(truth, called, steps) == pytest.approx(1.0)
    assert metrics.ontology_distance(truth, called, lambda a, b: abs(a - b)) == pytest.approx(1.0)
    assert np.isnan(metrics.ontology_distance(np.array([0]), np.array([-1]), steps))


@given(pairs)
def test_confusion_table_equals_sklearn(pair):
    truth, called = pair
    table = metrics.confusion_table(truth, called)
    labels = np.arange(-1, 6)
    wanted = reference.confusion_matrix(truth, called, labels=labels)
    for row, true_class in enumerate(table.true_classes):
        for column, called_class in enumerate(table.called_classes):
            place = np.searchsorted(labels, [true_class, called_class])
            assert table.counts[row, column] == wanted[place[0], place[1]]
    assert table.counts.sum() == len(truth)
    assert (np.diff(table.counts.sum(axis=1)) <= 0).all()


def test_h_score_is_the_harmonic_mean():
    assert metrics.h_score(0.9, 0.3) == pytest.approx(2 / (1 / 0.9 + 1 / 0.3))
    assert metrics.h_score(0.8, 0.0) == 0.0
    assert metrics.h_score(0.0, 0.0) == 0.0


def test_unequal_lengths_and_no_cells_are_refused():
    with pytest.raises(ValueError, match="must both have shape"):
        metrics.accuracy(np.array([1, 2]), np.array([1]))
    with pytest.raises(ValueError, match="there are no cells to score"):
        metrics.accuracy(np.array([]), np.array([]))


def test_no_known_pair_is_no_descendant() -> None:
    nothing = np.array([-1, -1])
    closure = sparse.eye_array(3, dtype=bool).tocsr()
    assert metrics.is_descendant(nothing, nothing, closure).tolist() == [False, False]
