"""Decoders on annotated sources: what is written, kept, reported and refused."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import zeroshot
from langcell.model.langcell import LangCell
from zeroshot.annotate.annotator import annotate
from zeroshot.annotate.options import AnnotateOptions
from zeroshot.decide.decoding import decode
from zeroshot.decide.options import DecodeOptions, read_strength

OWN = ["B cell", "T cell", "monocyte", "natural killer cell"]


@pytest.fixture(scope="module")
def model(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture(scope="module")
def once(make_cells, model, tmp_path_factory):
    """Path of an annotated file, from which tests take copies."""
    adata = make_cells(60)
    adata.obs["leiden"] = pd.Categorical((["0", "1", "10"] * 60)[:60])
    adata.obs["donor"] = pd.Categorical((["x"] * 30 + ["y"] * 28) + [None] * 2)
    adata.obs["empty"] = pd.Categorical([None] * 60, categories=["a"])
    folder = tmp_path_factory.mktemp("annotated")
    adata.write_h5ad(folder / "cells.h5ad")
    annotate(folder / "cells.h5ad", model=model, labels=OWN, out=folder / "named.h5ad")
    return folder / "named.h5ad"


@pytest.fixture
def named(once):
    return anndata.read_h5ad(once)


@pytest.fixture
def written(once, tmp_path):
    return Path(shutil.copy(once, tmp_path / "named.h5ad"))


ALL = DecodeOptions(smooth=2.0, cluster_key="leiden", assign_within="donor")


def test_raw_calls_are_kept_and_second_calls_stand_beside_them(named):
    before = named.copy()
    decode(named, ALL)
    assert (named.obs[before.obs.columns] == before.obs)[before.obs.columns[:-3]].all(
        axis=None
    ) or (named.obs[before.obs.columns].equals(before.obs))
    added = [name for name in named.obs if name not in before.obs]
    backed_off = ("label", "ontology_term_id", "confidence", "leaf_label", "leaf_ontology_term_id")
    assert added == [
        *(f"langcell_smooth_{name}" for name in backed_off),
        *(f"langcell_cluster_{name}" for name in backed_off),
        "langcell_cluster",
        *(f"langcell_assigned_{name}" for name in backed_off[:3]),
    ]
    assert named.obs.groupby("leiden", observed=True)["langcell_cluster_label"].nunique().max() == 1
    assert named.obs["langcell_cluster"].tolist() == named.obs["leiden"].tolist()
    units = named.obs[["donor", "leiden", "langcell_assigned_label"]].dropna().drop_duplicates()
    given_out = units[units["langcell_assigned_label"] != "unassigned"]
    assert len(units) == 6 and not given_out.duplicated(["donor", "langcell_assigned_label"]).any()


def test_the_report_counts_what_changed(named):
    decode(named, ALL)
    notes = named.uns["langcell"]["decoding"]
    for decoder in ("smooth", "cluster", "assigned"):
        # Labels given once each do not back off, so they are held against the best single types.
        before = "langcell_leaf_label" if decoder == "assigned" else "langcell_label"
        raw = named.obs[before].astype(str)
        now = named.obs[f"langcell_{decoder}_label"].astype(str)
        assert notes[decoder]["n_changed"] == (raw != now).sum()
        assert notes[decoder]["share_changed"] == pytest.approx((raw != now).mean())
        assert notes[decoder]["moves"]["n_cells"].sum() == (raw != now).sum()
    assert notes["smooth"]["lambda"] == 2.0 and "nearest in obsm" in notes["smooth"]["graph"]
    calls = notes["cluster"]["calls"]
    assert calls["cluster"].tolist() == ["0", "1", "10"] and calls["n_cells"].sum() == 60
    assert notes["assigned"]["members"] == "clusters"


def test_a_file_gets_what_an_anndata_gets(named, written):
    decode(named, ALL)
    before = anndata.read_h5ad(written)
    decode(written, ALL)
    after = anndata.read_h5ad(written)
    new = [name for name in after.obs if name not in before.obs]
    assert len(new) == 14 and (after.X != before.X).nnz == 0
    for name in new:
        assert after.obs[name].tolist() == named.obs[name].tolist()
    found = after.uns["langcell"].pop("decoding")
    for decoder, report in named.uns["langcell"]["decoding"].items():
        assert found[decoder]["n_changed"] == report["n_changed"]
        pd.testing.assert_frame_equal(
            found[decoder]["moves"].reset_index(drop=True), report["moves"], check_dtype=False
        )
    assert set(after.uns["langcell"]) == set(before.uns["langcell"])
    assert not [path for path in written.parent.iterdir() if path.suffix == ".tmp"]


def test_what_an_earlier_run_left_is_not_replaced_unasked(written, model, tmp_path):
    decode(written, DecodeOptions(smooth=1.0))
    with pytest.raises(ValueError, match="already has obs/langcell_smooth_label"):
        decode(written, DecodeOptions(smooth=2.0))
    decode(written, DecodeOptions(smooth=2.0), overwrite=True)
    decode(written, DecodeOptions(cluster_key="leiden"))
    notes = anndata.read_h5ad(written).uns["langcell"]["decoding"]
    assert set(notes) == {"smooth", "cluster"} and notes["smooth"]["lambda"] == 2.0
    # New scores take the calls that rested on the old ones with them.
    annotate(
        written, model=model, out=tmp_path / "new.h5ad", options=AnnotateOptions(overwrite=True)
    )
    again = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert not [name for name in again.obs if "smooth" in name or "cluster" in name]
    assert "decoding" not in again.uns["langcell"]


def test_new_scores_of_an_anndata_take_second_calls_with_them(named, model):
    zeroshot.consensus(named, "leiden")
    annotate(named, model=model, labels=OWN, options=AnnotateOptions(overwrite=True))
    assert not [name for name in named.obs if "cluster" in name]
    assert "decoding" not in named.uns["langcell"]


def test_a_second_choice_is_as_sure_as_its_probability(make_cells, model):
    adata = make_cells(30)
    annotate(adata, model=model, labels=OWN)
    adata.obs["donor"] = [str(row // 3) for row in range(30)]
    zeroshot.assign(adata, "donor", worth=None)
    candidates = list(adata.uns["langcell"]["candidate_names"])
    places = [candidates.index(name) for name in adata.obs["langcell_assigned_label"]]
    own = np.asarray(adata.obsm["langcell_scores"].tocsr()[np.arange(30), places]).ravel()
    confidence = adata.obs["langcell_assigned_confidence"].to_numpy()
    assert (own > 0).all() and (confidence >= own - 2e-5).all(), "of a model without a calibration"


def test_the_graph_of_the_file_is_preferred(named):
    alone = named.copy()
    alone.obsp["connectivities"] = np.zeros((60, 60))
    zeroshot.smooth(alone, strength=50)
    notes = alone.uns["langcell"]["decoding"]["smooth"]
    assert notes["graph"] == "obsp['connectivities']" and notes["n_changed"] == 0
    zeroshot.smooth(named, strength=50)
    assert named.uns["langcell"]["decoding"]["smooth"]["n_changed"] > 0


def test_the_functions_work_in_place_or_on_a_copy(named):
    copied = zeroshot.consensus(named, "leiden", copy=True)
    assert "langcell_cluster_label" in copied.obs and "langcell_cluster_label" not in named.obs
    assert "decoding" not in named.uns["langcell"]
    assert zeroshot.consensus(named) is None
    assert named.obs["langcell_cluster"].nunique() == 7
    assert zeroshot.assign(named, "donor", cluster_key="leiden", worth=None) is None
    assert "unassigned" not in named.obs["langcell_assigned_label"].cat.categories
    assert set(named.uns["langcell"]["decoding"]) == {"cluster", "assigned"}


def test_other_names_and_smoothing_before_pooling(make_cells, model):
    adata = make_cells(30)
    annotate(adata, model=model, labels=OWN, options=AnnotateOptions(key_added="mine"))
    zeroshot.consensus(adata, "cell_type", smooth=1.0, key_added="mine")
    assert {"mine_smooth_label", "mine_cluster_label"} <= set(adata.obs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster_key": "louvain"}, "no column 'louvain' in obs; it has cell_type, leiden, don"),
        ({"assign_within": "patient"}, "no column 'patient' in obs"),
        ({"cluster_key": "empty"}, r"obs\['empty'\] is empty"),
        ({"assign_within": "donor"}, "group 'x' has 30 members, more than the 4 labels"),
        ({"smooth": 1.0, "key_added": "mine"}, r"has no obsm\['mine_scores'\]"),
    ],
)
def test_what_cannot_be_decoded_is_refused_and_nothing_changes(written, options, message):
    before = written.read_bytes()
    with pytest.raises(ValueError, match=message):
        decode(written, DecodeOptions(**options))
    assert written.read_bytes() == before and len(list(written.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": -1.0}, "smooth must not be negative, got -1"),
        ({"smooth": float("nan")}, "smooth must not be negative, got nan"),
        ({"worth": 0.0}, "worth must be above 0"),
        ({"pooling": "median"}, "pooling must be 'mean' or 'log', got 'median'"),
        ({"cluster_key": "auto", "assign_within": "donor"}, "makes many clusters of each type"),
    ],
)
def test_options_that_conflict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodeOptions(**options)


def test_lambda_of_the_command_line():
    assert read_strength("2.5") == 2.5
    with pytest.raises(ValueError, match="smooth must be a number or 'auto', got 'much'"):
        read_strength("much")
