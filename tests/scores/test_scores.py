import numpy as np
import pytest
from scipy.special import log_softmax

from zeroshot.scores.label_index import QUERY_ROWS, LabelIndex
from zeroshot.scores.scores import Scores, best_scores, fuse


def _score(cells: np.ndarray, index: LabelIndex, *, scale: float, top_k: int) -> Scores:
    return best_scores(cells, index, index.log_probabilities(cells, scale), top_k=top_k)


def _unit(rng, *shape):
    features = rng.normal(size=shape).astype(np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def labels(rng):
    return LabelIndex(_unit(rng, 40, 16), [f"CL:{i:07d}" for i in range(40)])


def test_search_equals_sorting_all_products(rng, labels):
    cells = _unit(rng, QUERY_ROWS + 3, 16)
    similarities, found = labels.search(cells, 5)
    products = cells @ labels.features.T
    wanted = np.argsort(-products, axis=1, kind="stable")[:, :5]
    assert (found == wanted).all()
    # float32 sums of 16 products in another order
    assert similarities == pytest.approx(np.take_along_axis(products, wanted, axis=1), abs=1e-6)


def test_ties_come_in_the_order_of_the_index(rng):
    features = np.repeat(_unit(rng, 1, 8), 6, axis=0)
    _, found = LabelIndex(features, list("abcdef")).search(_unit(rng, 4, 8), 6)
    assert (found == np.arange(6)).all()


def test_a_cell_has_the_same_score_alone_and_in_company(rng, labels):
    cells = _unit(rng, 2 * QUERY_ROWS + 17, 16)
    together = _score(cells, labels, scale=20.0, top_k=4)
    for cell in (0, QUERY_ROWS - 1, QUERY_ROWS, 2 * QUERY_ROWS + 16):
        alone = _score(cells[cell : cell + 1], labels, scale=20.0, top_k=4)
        assert (alone.candidates[0] == together.candidates[cell]).all()
        assert (alone.to_csr()[[0]] != together.to_csr()[[cell]]).nnz == 0


def test_scores_are_log_softmax_over_all_labels(rng, labels):
    cells = _unit(rng, 9, 16)
    scores = _score(cells, labels, scale=20.0, top_k=6)
    wanted = log_softmax(20.0 * (cells @ labels.features.T).astype(np.float64), axis=1)
    wanted = -np.sort(-wanted, axis=1)[:, :6]
    assert scores.log_probabilities == pytest.approx(wanted, abs=1e-4)
    probabilities = np.exp(wanted)
    assert scores.margin == pytest.approx(probabilities[:, 0] - probabilities[:, 1], abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_all_log_probabilities_are_a_log_softmax_in_double_precision(rng, scale):
    features, cells = _unit(rng, 3000, 16), _unit(rng, QUERY_ROWS + 9, 16)
    labels = LabelIndex(features, [f"CL:{i:07d}" for i in range(len(features))])
    wanted = log_softmax(scale * (cells.astype(np.float64) @ features.T.astype(np.float64)), axis=1)
    # The products themselves are float32: an error of 2e-7 each, times the scale.
    got = labels.log_probabilities(cells, scale)
    assert got.dtype == np.float32
    assert got == pytest.approx(wanted, abs=3e-6 + 6e-7 * scale)


def test_sparse_scores_hold_the_top_k_rounded(rng, labels):
    scores = _score(_unit(rng, 9, 16), labels, scale=20.0, top_k=6)
    matrix = scores.to_csr()
    assert matrix.shape == (9, 40) and (np.diff(matrix.indptr) == 6).all()
    assert matrix.has_sorted_indices
    for cell in range(9):
        for candidate, log_probability in zip(
            scores.candidates[cell], scores.log_probabilities[cell], strict=True
        ):
            assert matrix[cell, candidate] == pytest.approx(np.exp(log_probability), abs=5.1e-6)
    thousands = matrix.data.astype(np.float64) * 1e5
    assert thousands == pytest.approx(np.round(thousands), abs=0.01)


def test_one_candidate_is_certain(rng):
    index = LabelIndex(_unit(rng, 1, 16), ["a"])
    scores = _score(_unit(rng, 3, 16), index, scale=20.0, top_k=10)
    assert scores.margin == pytest.approx(1.0)


def test_fusion_is_a_product_of_experts_within_the_reranked(rng, labels):
    scores = _score(_unit(rng, 5, 16), labels, scale=20.0, top_k=6)
    target_call = np.log(rng.uniform(0.01, 1, size=(5, 3)))
    fused = fuse(scores, target_call, weight=0.5)
    before = np.exp(scores.log_probabilities.astype(np.float64))
    for cell in range(5):
        products = before[cell, :3] * np.exp(target_call[cell]) ** 0.5
        wanted = before[cell].copy()
        wanted[:3] = products / products.sum() * before[cell, :3].sum()
        order = np.argsort(-wanted)
        assert fused.candidates[cell].tolist() == scores.candidates[cell, order].tolist()
        assert np.exp(fused.log_probabilities[cell]) == pytest.approx(wanted[order], rel=1e-4)
        assert order[0] < 3


def test_fusion_does_not_depend_on_the_number_of_labels():
    # The same two candidates with the same similarities, alone and among 98 distant others.
    target_call = np.log(np.array([[0.2, 0.9]]))
    odds = []
    for tail in (0.0, 0.5):
        pair = np.log((1 - tail) * np.array([[0.6, 0.4]]))
        scores = Scores(
            candidate_ids=tuple("ab"),
            candidates=np.array([[0, 1]], dtype=np.int32),
            log_probabilities=pair.astype(np.float32),
        )
        fused = fuse(scores, target_call)
        odds.append(fused.log_probabilities[0, 0] - fused.log_probabilities[0, 1])
    assert odds[0] == pytest.approx(odds[1], abs=1e-6)
    assert odds[0] == pytest.approx(np.log(0.4 * 0.9 / (0.6 * 0.2)), abs=1e-5)


def test_indifferent_opinion_changes_nothing(rng, labels):
    scores = _score(_unit(rng, 5, 16), labels, scale=20.0, top_k=6)
    fused = fuse(scores, np.full((5, 6), np.log(0.5)))
    assert (fused.candidates == scores.candidates).all()
    assert fused.log_probabilities == pytest.approx(scores.log_probabilities, abs=1e-5)


def test_shapes_that_do_not_fit_are_refused(rng):
    with pytest.raises(ValueError, match=r"features must have shape \(n_labels=2, embedding_dim\)"):
        LabelIndex(_unit(rng, 3, 16), ["a", "b"])
    with pytest.raises(ValueError, match=r"must both have shape \(n_cells, k\)"):
        Scores(
            candidate_ids=("a",),
            candidates=np.zeros((2, 1), np.int32),
            log_probabilities=np.zeros((2, 2), np.float32),
        )
