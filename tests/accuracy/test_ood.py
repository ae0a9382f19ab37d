"""What the out-of-distribution benchmark makes of cells, and what it counts."""

from collections import Counter

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.accuracy.ood import auroc, contrasts, doublets, empty_droplets, fpr_at_95, scorer
from benchmarks.data.studies import LabelledFile
from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.model.langcell import LangCell

GLIOBLAST = "CL:0000030"  # a type that no training file has


def test_figures_against_counting_pairs():
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 1, 60).round(1), rng.normal(1, 1, 80).round(1)
    pairs = bad[:, None] - good[None]
    assert auroc(good, bad) == pytest.approx(np.mean((pairs > 0) + (pairs == 0) / 2))
    # The highest threshold that at least 95 % of the bad cells reach.
    reached = [each for each in bad if np.mean(bad >= each) >= 0.95]
    assert fpr_at_95(good, bad) == np.mean(good >= max(reached))
    assert fpr_at_95(np.zeros(5), np.ones(5)) == 0 and fpr_at_95(np.ones(5), np.zeros(5)) == 1


def test_doublets_are_sums_of_two_cells_of_different_types():
    truth = np.array(["a", "b", "c"] * 4, dtype=object)
    cells = sparse.csr_matrix(np.diag(2.0 ** np.arange(12)))  # each cell has a gene of its own
    made = doublets(cells, truth, np.random.default_rng(0))
    assert made.shape == (400, 12)
    for row in made:
        first, second = row.indices
        assert truth[first] != truth[second]
        assert row.data.tolist() == [2.0**first, 2.0**second]


def test_empty_droplets_are_few_counts_of_the_mean_profile():
    cells = sparse.csr_matrix(np.array([[0.0, 6.0, 0.0], [0.0, 0.0, 2.0]]))
    made = empty_droplets(cells, np.random.default_rng(0)).toarray()
    assert made.shape == (400, 3) and not made[:, 0].any()
    totals = made.sum(axis=1)
    assert totals.min() >= 50 and totals.max() < 300
    assert made[:, 1].sum() / made.sum() == pytest.approx(0.75, abs=0.01)


@pytest.fixture
def model(tiny_bag):
    model = LangCell.from_pretrained(str(tiny_bag))
    features = np.random.default_rng(1).normal(size=(20, model.config.embedding_dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    model.reference = ReferenceCells(features=features.astype(np.float16))
    return model


def test_cells_are_scored_by_four_methods(model, make_cells):
    adata = make_cells(12)
    found = scorer(model)(adata.X, adata.var_names.to_numpy())
    assert list(found) == ["langcell_ood", "1 - best probability", "few genes", "many genes"]
    assert all(len(scores) == 12 and np.isfinite(scores).all() for scores in found.values())
    n_genes = (adata.X > 0).sum(axis=1).A1 if hasattr(adata.X, "A1") else adata.X.getnnz(axis=1)
    assert found["many genes"].tolist() == n_genes.tolist()
    assert (found["few genes"] == -found["many genes"]).all()
    assert (found["1 - best probability"] >= 0).all() and (found["1 - best probability"] < 1).all()
    model.reference = None
    with pytest.raises(ValueError, match="no reference cells"):
        scorer(model)


def test_good_cells_are_held_against_each_kind_of_bad_ones(make_cells, tmp_path):
    files = []
    for study, types in (("one", ["a", "b"]), ("two", ["a", "b", GLIOBLAST])):
        adata = make_cells(30)
        adata.write_h5ad(tmp_path / f"{study}.h5ad")
        truth = np.array((types * 30)[:29], dtype=object)
        files.append(
            LabelledFile(
                name=study,
                study=study,
                path=tmp_path / f"{study}.h5ad",
                scale="counts",
                tissues=(),
                is_labelled=np.arange(30) > 0,
                truth_ids=truth,
            )
        )
    mouse = anndata.AnnData(
        sparse.csr_matrix(np.full((7, 2), 3.0)), var=pd.DataFrame(index=["Cd3d", "Lyz2"])
    )
    mouse.write_h5ad(tmp_path / "mouse.h5ad")
    asked = []

    def score(counts, genes):
        asked.append(genes.tolist())
        return {"total": np.asarray(counts.sum(axis=1)).ravel()}

    found = list(contrasts(files, tmp_path / "mouse.h5ad", score, seed=0))
    assert asked[0] == ["CD3D", "LYZ2"], "mouse genes under human names"
    kinds = Counter(kind for kind, *_ in found)
    every = {"doublets": 2, "empty droplets": 2, "mouse cells": 2}
    assert kinds == {**every, "types never seen": 1}, "the second study alone has such types"
    sizes = {
        (kind, study): (len(good["total"]), len(bad["total"])) for kind, study, good, bad in found
    }
    assert sizes["doublets", "one"] == (29, 400) and sizes["mouse cells", "two"] == (29, 7)
    assert sizes["types never seen", "two"] == (20, 9)
