import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology.candidates import NEVER_CALLED, groupings
from ontology.graph import Ontology
from zeroshot.confidence.backoff import TermsByDepth, back_off, term_probabilities, terms_by_depth
from zeroshot.confidence.calibration import CalibrationCurve
from zeroshot.confidence.term_tree import TermTree
from zeroshot.labels.candidates import all_candidates, own_candidates

# A term with two parents that are both here (natural killer T cell), a term above others, free text.
LABELS = (
    *("T cell", "CD4-positive, alpha-beta T cell", "mature NK T cell", "natural killer cell"),
    *("B cell", "lymphocyte", "classical monocyte", "neuron", "text: a cell that glows"),
)
ONTOLOGY = Ontology.bundled()
CHOICE = own_candidates(LABELS, ONTOLOGY)
TREE = TermTree.of(CHOICE, ONTOLOGY)

logits = st.lists(st.floats(-12, 0, width=32), min_size=len(LABELS), max_size=len(LABELS))
curves = st.builds(
    CalibrationCurve,
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    slope=st.floats(0, 3),
    depth_cost=st.floats(0, 1),
    intercept=st.floats(-3, 3),
)


def _rows(values):
    return np.array([values], dtype=np.float32)


def _call(values, curve, threshold):
    rows = _rows(values)
    by_depth = terms_by_depth(rows, TREE, rows.argmax(axis=1), temperature=curve.temperature)
    return back_off(by_depth, curve, threshold=threshold)


def _by_hand(values, term_id):
    """Sum, over a Python set, the candidates that are the term or have it as an ancestor."""
    shares = np.exp(np.array(values, dtype=np.float64))
    below = {
        row
        for row, each in enumerate(CHOICE.ids)
        if each == term_id or (each and term_id in ONTOLOGY.ancestors(each))
    }
    return sum(shares[row] for row in below) / shares.sum()


@settings(deadline=None, max_examples=50)
@given(logits)
def test_a_term_has_what_is_at_or_below_it_once(values):
    found = term_probabilities(_rows(values), TREE)[0]
    for row, term_id in enumerate(TREE.ids[:-1]):
        if term_id != "CL:0000000":
            assert found[row] == pytest.approx(_by_hand(_rows(values)[0], term_id), abs=1e-6)
    assert found[TREE.ids.index("CL:0000000")] == pytest.approx(1)  # free text too


@settings(deadline=None, max_examples=50)
@given(logits, curves)
def test_a_parent_is_never_less_probable_or_less_sure_than_its_child(values, curve):
    probabilities = term_probabilities(_rows(values), TREE, temperature=curve.temperature)[0]
    confidence = curve.confidence(probabilities, TREE.depths)
    for row, term_id in enumerate(TREE.ids[:-1]):
        for parent in ONTOLOGY.parents(term_id):
            above = TREE.ids.index(parent)
            assert probabilities[above] >= probabilities[row] - 1e-12
            assert confidence[above] >= confidence[row] - 1e-9


@settings(deadline=None, max_examples=50)
@given(logits, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(values, random):
    order = list(range(len(LABELS)))
    random.shuffle(order)
    shuffled = TermTree.of(own_candidates([LABELS[i] for i in order], ONTOLOGY), ONTOLOGY)
    rows = _rows(values)
    best = rows.argmax(axis=1)
    place = np.array([order.index(best[0])])
    one = terms_by_depth(rows, TREE, best, temperature=1.0)
    other = terms_by_depth(rows[:, order].copy(), shuffled, place, temperature=1.0)
    assert (one.terms == other.terms).all()
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(logits, curves, st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_higher_threshold_never_calls_deeper_and_calls_are_as_sure_as_it_says(
    values, curve, first, second
):
    low, high = sorted((first, second))
    calls = {threshold: _call(values, curve, threshold) for threshold in (low, high)}
    depth = {
        threshold: TREE.depths[each.terms[0]] if each.terms[0] >= 0 else -1
        for threshold, each in calls.items()
    }
    assert depth[high] <= depth[low]
    for threshold, each in calls.items():
        assert (each.confidence[0] >= np.float32(threshold)) == (each.terms[0] >= 0)


def test_the_ladder_equals_sorting_all_terms():
    rng = np.random.default_rng(5)
    candidates = all_candidates(ONTOLOGY)
    tree = TermTree.of(candidates, ONTOLOGY)
    rows = (3 * rng.normal(size=(300, len(candidates)))).astype(np.float32)
    by_depth = terms_by_depth(rows, tree, rows.argmax(axis=1), temperature=0.7)
    wanted = term_probabilities(rows, tree, temperature=0.7)
    assert by_depth.leaf_probabilities == pytest.approx(
        wanted[np.arange(300), tree.candidate_terms[rows.argmax(axis=1)]], abs=1e-5
    )
    wanted[:, ~tree.is_callable] = -1
    for depth in range(tree.n_depths):
        here = np.where(tree.depths == depth, wanted, -1)
        some = here.max(axis=1) > 0
        # What is negligible beside the best candidate is not summed.
        assert by_depth.probabilities[some, depth] == pytest.approx(
            here.max(axis=1)[some], abs=1e-5
        )
        assert (by_depth.terms[~some, depth] == -1).all()
    alone = terms_by_depth(rows[77:78], tree, rows[77:78].argmax(axis=1), temperature=0.7)
    assert (alone.probabilities[0] == by_depth.probabilities[77]).all()


def test_nobody_is_called_what_says_nothing():
    tree = TermTree.of(all_candidates(ONTOLOGY), ONTOLOGY)
    callable_ids = {term_id for term_id, may in zip(tree.ids, tree.is_callable, strict=True) if may}
    assert not callable_ids & (NEVER_CALLED | groupings().keys())
    assert all(ONTOLOGY.terms[term_id].name for term_id in groupings())  # all are live terms
    chosen = TermTree.of(own_candidates(["phagocyte", "neuron"], ONTOLOGY), ONTOLOGY)
    assert chosen.is_callable[chosen.ids.index("CL:0000234")]


def test_equal_sums_take_the_sure_term_or_unknown():
    even = [0.0] * len(LABELS)
    assert _call(even, CalibrationCurve(), 0.99).terms[0] == -1
    t_cells = [0.0, 0.0, 0.0, *[-30.0] * 6]  # three kinds of T cell share a cell evenly
    called = _call(t_cells, CalibrationCurve(), 0.9)
    assert TREE.names[called.terms[0]] == "T cell"
    assert called.confidence[0] > 0.99 and called.leaf_confidence[0] > 0.99
    glowing = [*[-30.0] * 8, 0.0]
    assert TREE.names[_call(glowing, CalibrationCurve(), 0.9).terms[0]] == "a cell that glows"


def test_a_call_is_judged_by_the_confidence_that_is_written():
    sure = np.array([[0.900004, 0.899996], [0.8999949, 0.5], [0.96, 0.9000049]])
    n_cells, n_depths = sure.shape
    by_depth = TermsByDepth(
        tree=TREE,
        terms=np.tile(np.arange(n_depths, dtype=np.int32), (n_cells, 1)),
        probabilities=sure,
        leaf_terms=np.zeros(n_cells, dtype=np.int32),
        leaf_probabilities=sure[:, 1],
    )
    calls = back_off(by_depth, CalibrationCurve(), threshold=0.9)
    assert calls.terms.tolist() == [1, -1, 1]
    assert calls.confidence.tolist() == np.float32([0.9, 0.89999, 0.9]).tolist()
    assert calls.leaf_confidence.tolist() == np.float32([0.9, 0.5, 0.9]).tolist()
    finer = back_off(by_depth, CalibrationCurve(), threshold=0.9000041)
    assert finer.terms.tolist() == [-1, -1, 0], (
        "0.9000049 is written as 0.9, and that is too little"
    )
