"""Benchmarks of novel types, states and mixed batches: their splits and figures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from benchmarks.accuracy import novel_types, states
from benchmarks.accuracy.integration import AFTER, BEFORE, BatchedCells, joined, scib_scores
from benchmarks.accuracy.novel_types import TargetCall, draws, score, thresholds
from benchmarks.baselines.celltypist_baseline import celltypist_labels
from tests.fit.test_few_shot import make_shots


@pytest.fixture
def cells():
    """Six types, each apart from the others in features and components."""
    labels = np.arange(240) % 6
    rng = np.random.default_rng(0)
    features = rng.normal(size=(240, 8)) + 6 * np.eye(6, 8)[labels]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    shots = replace(
        make_shots(labels, n_labels=6),
        features=features.astype(np.float32),
        label_features=np.eye(6, 8),
    )
    components = rng.normal(size=(240, 6)) + 6 * np.eye(6)[labels]
    file = SimpleNamespace(study="a study")
    return SimpleNamespace(
        file=file, shots=shots, components=components, log_counts=components.astype(np.float32)
    )


def test_held_out_types_are_in_no_reference(cells):
    found = list(draws(cells, 0.5, 10, 3))
    assert len(found) == 3
    for known, train, test in found:
        assert len(known.keys) == 3 and not np.intersect1d(train, test).size
        assert np.bincount(known.labels[train]).tolist() == [10, 10, 10]
        assert (known.labels[test] < 0).sum() == 120 and (known.labels[test] >= 0).sum() == 90
        assert np.exp(known.texts).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert found[0][1].tolist() != found[1][1].tolist()


def test_groups_are_on_one_side(cells):
    groups = np.array(["x", "y", "z", "w"])[np.arange(240) // 6 % 4]
    cells.shots = replace(cells.shots, groups=groups)
    for _, train, test in draws(cells, 0.25, 10, 2):
        assert not set(groups[train]) & set(groups[test])


def test_novelty_is_scored_by_hand():
    found = TargetCall(called=np.array([0, 1, 1, 0]), novelty=np.array([0.1, 0.6, 0.3, 0.9]))
    figures = score(found, np.array([0, 1, 0, -1]), threshold=0.5)
    # Of three labelled cells one is right and not flagged; the novel one is flagged.
    assert figures == {"auroc": 1.0, "fpr95": 0.0, "h": pytest.approx(2 / 3 / (4 / 3))}


@pytest.mark.parametrize("judge", novel_types.JUDGES)
def test_judges_find_what_is_far_away(cells, judge):
    known, train, test = next(draws(cells, 0.5, 10, 1))
    threshold = thresholds(judge, cells, known, train)
    for name, found in judge(cells, known, train, test).items():
        figures = score(found, known.labels[test], threshold[name])
        if name != "langcell, text 1 - max p":  # those probabilities are noise here
            assert figures["auroc"] > 0.8
        if "text" not in name:
            assert figures["h"] > 0.5


def test_states_are_split_by_cells_or_types():
    labels, types = np.arange(120) % 2, np.arange(120) // 2 % 3
    ((train, test),) = states.splits(labels, types, "cells", 5, 0)
    assert np.bincount(labels[train]).tolist() == [5, 5] and len(test) == 110
    found = list(states.splits(labels, types, "types", 5, 0))
    assert [set(types[test]) for _, test in found] == [{0}, {1}, {2}]
    assert all(not set(types[train]) & set(types[test]) for train, test in found)


def test_states_are_learnt(cells):
    is_second = np.arange(240) % 6 >= 3
    table = states.measure_cells(cells, is_second, n_seeds=1)
    means = table[(table.protocol == "cells") & (table.k == 50)].groupby("method").macro_f1.mean()
    assert (means > 0.9).all() and set(means.index) == set(states.METHODS)
    donors = np.repeat([f"d{n}" for n in range(12)], 20)
    of_donor = replace(cells.shots, features=cells.shots.features.copy())
    of_donor.features[donors >= "d5"] = -of_donor.features[donors >= "d5"]
    cells.shots = of_donor
    right = states.measure_donors(cells, donors, donors >= "d5")
    assert right["donors"] == 12 and right["langcell"] == 1


def batched(seed, n_cells, genes, types, batches):
    rng = np.random.default_rng(seed)
    term_ids = np.array(types)[np.arange(n_cells) % len(types)].astype(object)
    return BatchedCells(
        counts=sparse.csr_matrix(rng.poisson(3, (n_cells, len(genes))).astype(np.float32)),
        genes=np.array(genes),
        features=rng.normal(size=(n_cells, 8)).astype(np.float32),
        term_ids=term_ids,
        batches=np.array(batches)[np.arange(n_cells) % len(batches)].astype(object),
    )


def test_parts_are_joined_over_shared_genes_and_types():
    genes = [f"g{number:02d}" for number in range(30)]
    first = batched(0, 60, genes, ["A", "B", "C"], ["one"])
    second = batched(1, 40, genes[10:], ["A", "B"], ["two", "two", "two", "two", "small"])
    adata = joined([first, second])
    assert adata.var_names.size == 20 and set(adata.obs["type"]) == {"A", "B"}
    assert set(adata.obs["batch"]) == {"one", "two"}  # the small batch has eight cells
    assert adata.obsm[AFTER].shape == (72, 8) and len(adata.obsm[BEFORE]) == 72
    kept = np.isin(first.term_ids.astype(str), ["A", "B"])
    assert adata.obsm[AFTER][:40].tolist() == first.features[kept].tolist()


def test_scib_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scib_metrics.benchmark", None)
    with pytest.raises(ImportError, match=r"pip install 'langcell\[scib\]'"):
        scib_scores(joined([batched(0, 60, ["a", "b", "c", "d"], ["A", "B"], ["x", "y"])]))


def test_celltypist_learns_a_few_cells():
    pytest.importorskip("celltypist")
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 * 3
    values = rng.gamma(1, 0.3, (40, 20)).astype(np.float32)
    values[labels == 3, :10] += 2
    called = celltypist_labels(values[:20], labels[:20], values[20:])
    assert (called == labels[20:]).mean() > 0.9
