"""Calls of clusters: pooled as a slow sum would, and what is said of each."""

import numpy as np
import pytest
from scipy import sparse

from zeroshot.decide.cluster_consensus import cluster_codes, cluster_consensus
from zeroshot.decide.clusters import make_clusters
from zeroshot.results.cell_scores import CellScores


def _scores(table):
    return CellScores(
        probabilities=sparse.csr_matrix(np.asarray(table, dtype=np.float32)),
        candidate_ids=tuple(f"CL:{i}" for i in range(np.shape(table)[1])),
        candidate_names=tuple(f"type {i}" for i in range(np.shape(table)[1])),
    )


@pytest.fixture
def scores():
    """40 cells, the 4 best of 30 candidates each."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(30, 0.2), 40)
    least = np.sort(table, axis=1)[:, [-4]]
    return _scores(np.where(table >= least, np.round(table, 5), 0))


@pytest.mark.parametrize("pooling", ["mean", "log"])
def test_pooled_scores_are_those_of_a_slow_loop(scores, pooling):
    names = np.array(["a", "b", "c", ""] * 10)
    consensus = cluster_consensus(scores, names, pooling=pooling)
    dense = scores.probabilities.toarray().astype(float)
    filled = np.where(dense > 0, dense, scores.unstored[:, None])
    for row, name in enumerate("abc"):
        if pooling == "mean":
            wanted = dense[names == name].mean(axis=0)
        else:
            product = np.exp(np.log(filled[names == name]).mean(axis=0))
            wanted = product / product.sum()
        found = consensus.clusters.probabilities[row].toarray()[0]
        some = (dense[names == name] > 0).any(axis=0)
        assert ((found > 0) <= some).all(), "what no cell of it stores is not stored"
        assert found[some] == pytest.approx(wanted[some], abs=6e-6)  # rounded to 1e-5
        members = consensus.cells.probabilities[names == name].toarray()
        kept = members[0] > 0
        assert (members == members[0]).all() and kept.sum() == 4, "as many as a cell has"
        assert wanted[kept].min() >= wanted[~kept].max() - 1e-9
        assert (consensus.cells.best[names == name] == wanted.argmax()).all()
    alone = names == ""
    assert (consensus.cells.best[alone] == scores.best[alone]).all()


def test_what_is_said_of_a_cluster_by_hand():
    scores = _scores([[0.6, 0.4, 0], [0.5, 0.3, 0.2], [0.1, 0.9, 0], [0, 0.2, 0.8]])
    consensus = cluster_consensus(scores, ["10", "10", "10", "9"])
    nine, ten = consensus.calls
    assert (nine.cluster, ten.cluster) == ("9", "10")
    assert (ten.n_cells, ten.label, ten.term_id, ten.runner_up) == (3, "type 1", "CL:1", "type 0")
    assert ten.probability == pytest.approx(1.6 / 3, abs=1e-5)
    assert ten.runner_up_probability == pytest.approx(0.4, abs=1e-5)
    assert ten.agreement == pytest.approx(1 / 3)
    assert nine.agreement == 1 and nine.label == "type 2"


def test_one_that_is_sure_of_the_opposite_counts_more_among_logarithms():
    scores = _scores([[0.6, 0.4], [0.6, 0.4], [0.0001, 0.9999]])
    names = ["x"] * 3
    even = _scores([[0.7, 0.3], [0.7, 0.3], [0.2, 0.8]])
    assert cluster_consensus(even, names).calls[0].label == "type 0"
    assert cluster_consensus(even, names, pooling="log").calls[0].label == "type 0"
    assert cluster_consensus(scores, names, pooling="log").calls[0].label == "type 1"


def test_codes_follow_the_natural_order():
    names, codes = cluster_codes(np.array(["10", "b", "2", "", "2", "a"], dtype=object))
    assert names == ("2", "10", "a", "b")
    assert codes.tolist() == [1, 3, 0, -1, 0, 2]


def test_clusters_that_do_not_fit_are_refused(scores):
    with pytest.raises(ValueError, match=r"one name per cell \(40\), got 3"):
        cluster_consensus(scores, ["a"] * 3)
    with pytest.raises(ValueError, match="all cluster names are empty"):
        cluster_consensus(scores, [""] * 40)


def test_clusters_that_are_made_are_of_one_blob_each_and_the_same_again():
    rng = np.random.default_rng(0)
    centres = np.eye(5, 8)
    truth = np.repeat(np.arange(5), 40)
    features = (centres[truth] + rng.normal(0, 0.05, (200, 8))).astype(np.float32)
    clusters = make_clusters(features, cells_per_cluster=10)
    assert len(set(clusters)) == 20
    assert all(len(set(truth[clusters == name])) == 1 for name in set(clusters))
    assert (make_clusters(features, cells_per_cluster=10) == clusters).all()
    assert set(make_clusters(features[:3])) == {"0"}
    assert set(make_clusters(np.ones((20, 4), np.float32))) <= {"0", "1"}
