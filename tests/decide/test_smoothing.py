"""Smoothed scores: parity with a dense solve, what is conserved, and the graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from zeroshot.decide import knn_graph as neighbors
from zeroshot.decide import smoothing
from zeroshot.decide.knn_graph import neighbor_graph
from zeroshot.decide.smoothing import smooth_scores
from zeroshot.results.cell_scores import CellScores


def _scores(table):
    table = np.asarray(table, dtype=np.float32)
    return CellScores(
        probabilities=sparse.csr_matrix(table),
        candidate_ids=tuple(f"CL:{i}" for i in range(table.shape[1])),
        candidate_names=tuple(f"type {i}" for i in range(table.shape[1])),
    )


def _case(seed, n_cells=30, width=40):
    rng = np.random.default_rng(seed)
    table = np.maximum(np.round(rng.dirichlet(np.full(width, 0.3), n_cells), 5), 1e-5)
    graph = sparse.random(n_cells, n_cells, 0.1, random_state=rng, format="csr")
    return _scores(table), graph + graph.T


def _dense(scores, graph, strength):
    weights = graph.toarray()
    degrees = weights.sum(axis=1)
    laplacian = np.diag((degrees > 0).astype(float))
    laplacian -= weights / np.maximum(degrees, 1e-300)[:, None]
    system = np.eye(len(degrees)) + strength * laplacian
    return np.linalg.solve(system, scores.probabilities.toarray().astype(float))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 3.0, 100.0]))
def test_parity_with_a_dense_solve(seed, strength):
    scores, graph = _case(seed)
    found = smooth_scores(scores, graph, strength=strength).probabilities.toarray()
    # All 40 candidates are kept, as the rows have all of them; written with five decimals.
    assert found == pytest.approx(_dense(scores, graph, strength), abs=7e-6)


def test_rows_sum_to_what_they_did():
    scores, graph = _case(3)
    sums = smooth_scores(scores, graph, strength=10).probabilities.sum(axis=1)
    assert np.asarray(sums).ravel() == pytest.approx(1, abs=80 * 5e-6)  # rounding, twice


def test_the_best_are_kept_and_columns_solved_together_do_not_matter(monkeypatch):
    rng = np.random.default_rng(1)
    scores, graph = _case(1, width=50)
    few = scores.best_only(4)
    wanted = _dense(few, graph, 2.0)
    found = smooth_scores(few, graph, strength=2.0)
    assert (found.n_stored <= 4).all()
    assert (found.best == wanted.argmax(axis=1)).all()
    for row, values in enumerate(wanted):
        kept = found.probabilities[row].indices
        assert values[kept].min() >= np.sort(values)[-4] - 1e-9
    monkeypatch.setattr(smoothing, "_COLUMNS", 3)
    again = smooth_scores(few, graph, strength=2.0)
    assert (again.probabilities != found.probabilities).nnz == 0
    order = rng.permutation(30)
    shuffled = few.with_probabilities(few.probabilities[order])
    moved = smooth_scores(shuffled, graph[order][:, order], strength=2.0)
    assert abs(moved.probabilities - found.probabilities[order]).max() <= 1.1e-5


def test_neighbours_outvote_a_cell_and_a_lonely_one_keeps_its_scores():
    scores = _scores([[0.4, 0.6], [0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    graph = sparse.csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0] * 4]))
    found = smooth_scores(scores, graph, strength=2.0)
    assert scores.best.tolist() == [1, 0, 0, 1] and found.best.tolist() == [0, 0, 0, 1]
    assert found.probabilities[3].toarray()[0] == pytest.approx([0.3, 0.7])


def test_what_does_not_fit_is_refused():
    scores, graph = _case(0)
    with pytest.raises(ValueError, match=r"shape \(30, 30\), one row per cell, got \(5, 5\)"):
        smooth_scores(scores, graph[:5, :5])
    with pytest.raises(ValueError, match="must not be negative, got -"):
        smooth_scores(scores, -graph)
    with pytest.raises(ValueError, match="strength must not be negative, got -1"):
        smooth_scores(scores, graph, strength=-1)


def _unit(n_cells, width=16, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_cells, width)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_the_graph_connects_the_nearest():
    features = _unit(60)
    graph = neighbor_graph(features, n_neighbors=5).toarray()
    similarity = features @ features.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.zeros((60, 60))
    np.put_along_axis(nearest, np.argsort(-similarity, axis=1)[:, :5], 1, axis=1)
    assert (graph == (nearest + nearest.T) / 2).all()


def test_equal_cells_few_cells_and_one_cell_have_graphs():
    equal = neighbor_graph(np.repeat(_unit(1), 30, axis=0), n_neighbors=5)
    assert equal.diagonal().sum() == 0 and equal.sum() == 150
    assert neighbor_graph(_unit(3)).nnz == 6
    assert neighbor_graph(_unit(1)).nnz == 0


def test_a_grid_finds_most_of_the_nearest(monkeypatch):
    features = _unit(3000, width=8)
    exact = neighbor_graph(features)
    monkeypatch.setattr(neighbors, "_EXACT_CELLS", 1000)
    monkeypatch.setattr(neighbors, "_PROBES", 16)
    found = neighbor_graph(features)
    assert found.minimum(exact).sum() / exact.sum() > 0.9
