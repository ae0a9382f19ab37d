import hashlib
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

from langcell.counts.reader import open_counts
from langcell.model.langcell import LangCell
from langcell.tokens.tokenizer import RankTokenizer
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import Calibration, CalibrationCurve
from zeroshot.results.annotations import Slots
from zeroshot.results.writers import check_annotation_output

OWN = ["B cell", "T cells", "CL:0000576", "text: a cell that glows"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return LangCell.from_pretrained(str(tiny_model))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def h5ad(make_cells, tmp_path):
    adata = make_cells(40)
    adata.layers["dense"] = adata.X.toarray()
    adata.obsm["X_pca"] = np.arange(80, dtype=np.float32).reshape(40, 2)
    adata.uns["note"] = "kept"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_output_contract(h5ad, model, tmp_path):
    out = tmp_path / "named.h5ad"
    annotations = annotate(h5ad, model=model, out=out)
    before, after = anndata.read_h5ad(h5ad), anndata.read_h5ad(out)
    added = [path.split("/")[1] for path in Slots().annotated_paths if path.startswith("obs/")]
    assert after.obs.columns.tolist() == [*before.obs.columns, *added]
    assert after.obs["langcell_leaf_label"].tolist() == annotations.names.tolist()
    assert (after.obs["langcell_margin"] == annotations.margin).all()
    assert after.obs["langcell_label"].tolist() == annotations.labels.tolist()
    assert (after.obs["langcell_confidence"] == annotations.calls.confidence).all()
    assert (after.obs["langcell_leaf_confidence"] == annotations.calls.leaf_confidence).all()
    assert after.obs["langcell_ood"].isna().all()  # this model has no reference cells
    unknown = after.obs["langcell_label"] == "unknown"
    assert ((after.obs["langcell_ontology_term_id"] == "") == unknown).all()
    assert ((after.obs["langcell_confidence"] < 0.9) == unknown).all()
    features, scores = after.obsm["X_langcell"], after.obsm["langcell_scores"]
    assert features.dtype == np.float32 and features.shape == (40, 16)
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    assert sparse.issparse(scores) and (np.diff(scores.indptr) == 10).all()
    notes = after.uns["langcell"]
    assert scores.shape == (40, len(notes["candidate_ids"]))
    best = np.asarray(scores.argmax(axis=1)).ravel()
    assert (notes["candidate_ids"][best] == after.obs["langcell_leaf_ontology_term_id"]).all()
    assert notes["model_sha256"] == model.sha256 and notes["counts_source"] == "X"
    assert notes["gene_coverage"]["n_known_genes"] == 400
    assert notes["candidates"] == "all cell types" and notes["parameters"]["top_k"] == 10
    assert notes["parameters"]["confidence"] == 0.9
    assert notes["calibration"]["id"] == "uncalibrated"
    assert sum(n for _, _, n in annotations.calls_per_type()) == 40


def test_nothing_else_in_the_file_changes(h5ad, model, tmp_path):
    annotate(h5ad, model=model, out=tmp_path / "named.h5ad")

    def stored(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: (item.id.get_offset(), repr(item[()]))})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        return found

    before, after = stored(h5ad), stored(tmp_path / "named.h5ad")
    assert {name: after[name] for name in before} == before
    new = {name.split("/")[1] for name in set(after) - set(before)}
    assert all("langcell" in name for name in new)


def test_the_same_run_gives_the_same_bytes(h5ad, model, cache, tmp_path):
    options = AnnotateOptions(rerank=3)
    digests = []
    for name in ("one.h5ad", "two.h5ad"):
        annotate(h5ad, model=model, labels=OWN, out=tmp_path / name, options=options)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("rerank", [0, 3])
def test_a_call_does_not_depend_on_other_cells(make_cells, model, cache, rerank):
    options = AnnotateOptions(rerank=rerank, batch_size=4)
    adata = make_cells(50)
    together = annotate(adata, model=model, labels=OWN, options=options)
    order = np.random.default_rng(0).permutation(50)[:13]
    shuffled = make_cells(50)[order].copy()
    apart = annotate(shuffled, model=model, labels=OWN, options=options)
    assert (apart.best == together.best[order]).all()
    # Sums of other batches differ in the last bits; what is written is rounded to 1e-5.
    assert apart.margin == pytest.approx(together.margin[order], abs=2.1e-5)


def test_coverage_is_measured_and_warned_about_once(make_cells, model, monkeypatch):
    calls = []
    measure = RankTokenizer.coverage
    monkeypatch.setattr(
        RankTokenizer, "coverage", lambda *args: calls.append(args) or measure(*args)
    )
    annotate(make_cells(4), model=model)
    assert len(calls) == 1


def test_own_labels_and_free_text(h5ad, model, cache, tmp_path):
    annotations = annotate(h5ad, model=model, labels=OWN, out=tmp_path / "named.csv")
    assert annotations.candidates.names == ("B cell", "T cell", "monocyte", "a cell that glows")
    table = pd.read_csv(tmp_path / "named.csv", index_col=0, keep_default_na=False)
    assert table.index.tolist() == [f"cell{i}" for i in range(40)]
    glowing = table["langcell_leaf_label"] == "a cell that glows"
    assert glowing.any() and (table["langcell_leaf_ontology_term_id"][glowing] == "").all()
    assert (table["langcell_leaf_ontology_term_id"][~glowing] != "").all()


def test_tables_hold_the_columns_of_obs(h5ad, model, tmp_path):
    for name in ("named.csv", "named.parquet", "named.h5ad"):
        annotations = annotate(h5ad, model=model, out=tmp_path / name)
    as_pandas = annotations.table().to_csv(lineterminator="\n", na_rep="nan")
    assert (tmp_path / "named.csv").read_text(encoding="utf-8") == as_pandas
    obs = anndata.read_h5ad(tmp_path / "named.h5ad").obs.iloc[:, 1:].astype(str)
    csv = pd.read_csv(tmp_path / "named.csv", index_col=0, dtype=str)
    parquet = pd.read_parquet(tmp_path / "named.parquet").astype(str)
    for table in (csv, parquet):
        assert table.index.tolist() == obs.index.tolist()
        for name in ("langcell_leaf_label", "langcell_leaf_ontology_term_id"):
            assert table[name].tolist() == obs[name].tolist()
        margins = table["langcell_margin"].astype(float)
        assert margins.to_numpy() == pytest.approx(obs["langcell_margin"].astype(float).to_numpy())


def test_results_go_into_an_anndata_in_memory(make_cells, model, h5ad, tmp_path):
    adata = make_cells(40)
    annotations = annotate(adata, model=model)
    annotate(h5ad, model=model, out=tmp_path / "named.h5ad")
    written = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert adata.obs["langcell_leaf_label"].tolist() == annotations.names.tolist()
    assert (adata.obsm["X_langcell"] == written.obsm["X_langcell"]).all()
    assert (adata.obsm["langcell_scores"] != written.obsm["langcell_scores"]).nnz == 0
    with pytest.raises(ValueError, match=r"already has obs\['langcell_label'\]"):
        annotate(adata, model=model)
    annotate(adata, model=model, options=AnnotateOptions(key_added="again"))
    assert {"again_leaf_label", "langcell_leaf_label"} <= set(adata.obs.columns)
    annotate(adata, model=model, options=AnnotateOptions(overwrite=True))


def test_results_that_are_there_are_not_replaced_unasked(h5ad, model, tmp_path):
    named = tmp_path / "named.h5ad"
    annotate(h5ad, model=model, out=named)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        annotate(h5ad, model=model, out=named)
    with pytest.raises(ValueError, match="already has obs/langcell_label"):
        annotate(named, model=model, out=tmp_path / "again.h5ad")
    with pytest.raises(ValueError, match="is the input itself"):
        annotate(named, model=model, out=named, options=AnnotateOptions(overwrite=True))
    options = AnnotateOptions(overwrite=True)
    annotate(named, model=model, out=tmp_path / "again.h5ad", options=options)
    assert (tmp_path / "again.h5ad").exists()
    assert anndata.read_h5ad(tmp_path / "again.h5ad").obs.columns.is_unique


@pytest.mark.parametrize("zarr_format", [None, 2, 3])
@pytest.mark.filterwarnings(
    # anndata announces that its defaults will change
    "ignore:Writing zarr v2 data",
    "ignore:zarr v3 autosharding",
    # what anndata writes is not all in the zarr 3 specification yet
    "ignore:Consolidated metadata",
    "ignore:The data type",
)
def test_zarr_becomes_an_h5ad_with_all_it_holds(h5ad, model, tmp_path, zarr_format):
    adata = anndata.read_h5ad(h5ad)
    if zarr_format is None:
        adata.write_zarr(tmp_path / "cells.zarr")
    else:
        zarr = pytest.importorskip("zarr", minversion="3", reason="zarr 2 has one format")
        group = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=zarr_format)
        anndata.io.write_elem(group, "/", adata)
    annotate(tmp_path / "cells.zarr", model=model, out=tmp_path / "named.h5ad")
    after = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert (after.X != adata.X).nnz == 0
    assert (after.layers["dense"] == adata.layers["dense"]).all()
    assert (after.obsm["X_pca"] == adata.obsm["X_pca"]).all()
    assert after.obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    assert after.uns["note"] == "kept"
    assert after.var_names.tolist() == adata.var_names.tolist()
    annotate(h5ad, model=model, out=tmp_path / "from_h5ad.h5ad")
    wanted = anndata.read_h5ad(tmp_path / "from_h5ad.h5ad")
    assert (after.obsm["X_langcell"] == wanted.obsm["X_langcell"]).all()


def test_10x_h5_becomes_an_h5ad_with_its_counts(make_cells, model, tmp_path):
    adata = make_cells(25)
    path = tmp_path / "filtered.h5"
    by_cell = sparse.csc_matrix(adata.X.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = by_cell.data.astype(np.int32), by_cell.indices
        group["indptr"], group["shape"] = by_cell.indptr, np.array(by_cell.shape)
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        features = group.create_group("features")
        with_ids = open_counts(adata)
        with with_ids as matrix:
            features["id"] = matrix.resolution.ensembl_ids.astype("S")
        features["name"] = adata.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars, dtype="S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")
    annotate(path, model=model, out=tmp_path / "named.h5ad")
    after = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert (after.X != adata.X).nnz == 0
    assert after.obs_names.tolist() == adata.obs_names.tolist()
    assert "langcell_leaf_label" in after.obs and "X_langcell" in after.obsm


def test_10x_folder_becomes_an_h5ad_with_its_counts(make_cells, model, tmp_path):
    adata = make_cells(25)
    folder = tmp_path / "filtered"
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", adata.X.T.astype(np.int32))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    (folder / "genes.tsv").write_text("".join(f"{name}\t{name}\n" for name in adata.var_names))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "making a temporary copy|.*making a temporary copy")
        annotate(folder, model=model, out=tmp_path / "named.h5ad")
    after = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert (after.X != adata.X).nnz == 0
    assert after.obs_names.tolist() == adata.obs_names.tolist()


def test_in_place_only_adds(h5ad, model, tmp_path):
    annotate(h5ad, model=model, out=tmp_path / "named.h5ad")
    before = anndata.read_h5ad(h5ad)
    options = AnnotateOptions(inplace=True)
    with pytest.raises(ValueError, match="leave out out, got"):
        annotate(h5ad, model=model, out=tmp_path / "other.h5ad", options=options)
    annotate(h5ad, model=model, options=options)
    after, wanted = anndata.read_h5ad(h5ad), anndata.read_h5ad(tmp_path / "named.h5ad")
    pd.testing.assert_frame_equal(after.obs, wanted.obs)
    assert (after.obsm["X_langcell"] == wanted.obsm["X_langcell"]).all()
    assert (after.obsm["langcell_scores"] != wanted.obsm["langcell_scores"]).nnz == 0
    assert after.uns["langcell"].keys() == wanted.uns["langcell"].keys()
    assert (after.X != before.X).nnz == 0
    with pytest.raises(ValueError, match="already has obs/langcell_label"):
        annotate(h5ad, model=model, options=options)
    annotate(h5ad, model=model, options=AnnotateOptions(inplace=True, overwrite=True))
    pd.testing.assert_frame_equal(anndata.read_h5ad(h5ad).obs, wanted.obs)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_in_place_stopped_early_changes_nothing(h5ad, model):
    before = h5ad.read_bytes()

    def stop(done, n_cells):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(h5ad, model=model, options=AnnotateOptions(inplace=True), progress=stop)
    assert h5ad.read_bytes() == before
    assert [path.name for path in h5ad.parent.iterdir()] == ["cells.h5ad"]


def test_names_of_the_results():
    slots = Slots(key="mine")
    assert slots.paths == [
        "obs/mine_label",
        "obs/mine_ontology_term_id",
        "obs/mine_confidence",
        "obs/mine_leaf_label",
        "obs/mine_leaf_ontology_term_id",
        "obs/mine_leaf_confidence",
        "obs/mine_margin",
        "obs/mine_ood",
        "obsm/X_mine",
        "obsm/mine_scores",
        "obsm/mine_terms",
        "uns/mine",
        *(
            "obs/mine_smooth_label",
            "obs/mine_smooth_ontology_term_id",
            "obs/mine_smooth_confidence",
        ),
        *("obs/mine_smooth_leaf_label", "obs/mine_smooth_leaf_ontology_term_id"),
        "obs/mine_cluster_label",
        "obs/mine_cluster_ontology_term_id",
        "obs/mine_cluster_confidence",
        *("obs/mine_cluster_leaf_label", "obs/mine_cluster_leaf_ontology_term_id"),
        "obs/mine_assigned_label",
        "obs/mine_assigned_ontology_term_id",
        "obs/mine_assigned_confidence",
        "obs/mine_cluster",
    ]
    assert slots.decoded_paths(["assigned"]) == [
        *("obs/mine_assigned_label", "obs/mine_assigned_ontology_term_id"),
        "obs/mine_assigned_confidence",
        "uns/mine/decoding/assigned",
    ]
    with pytest.raises(ValueError, match="key_added must be a name without '/'"):
        Slots(key="a/b")


def test_options_that_make_no_sense_are_refused():
    for wrong in ({"rerank": 1}, {"top_k": 0}, {"batch_size": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            AnnotateOptions(**wrong)


def test_calls_back_off_as_far_as_the_level_asks(make_cells, model):
    depths = []
    for level in (0.05, 0.5, 0.99):
        options = AnnotateOptions(confidence=level, overwrite=True)
        annotations = annotate(make_cells(40), model=model, options=options)
        terms = annotations.calls.terms
        depths.append(np.where(terms >= 0, annotations.tree.depths[terms], -1))
    assert (depths[0] >= depths[1]).all() and (depths[1] >= depths[2]).all()
    assert (depths[0] > depths[2]).any()


def test_a_calibration_for_other_weights_is_left_out(make_cells, tiny_model):
    stale = LangCell.from_pretrained(str(tiny_model))
    stale.calibration = Calibration(
        all_types=CalibrationCurve(slope=0.5), given=CalibrationCurve(), model_sha256="other"
    ).to_json()
    with pytest.warns(UserWarning, match="was fitted for other weights"):
        annotations = annotate(make_cells(4), model=stale)
    assert annotations.details["calibration"]["id"] == "uncalibrated"


def test_no_labels_are_not_all_labels(h5ad, model):
    with pytest.raises(ValueError, match="two"):
        annotate(h5ad, model=model, labels=[])


def test_an_output_that_another_run_finished_meanwhile_is_not_replaced(
    h5ad, model, tmp_path, monkeypatch
):
    out = tmp_path / "named.csv"
    checked = []

    def check(*given, **options):
        checked.append(given)
        if len(checked) == 2:  # between the first look and the lock another run has ended
            out.write_text("theirs")
        check_annotation_output(*given, **options)

    monkeypatch.setattr("zeroshot.annotation.annotator.check_annotation_output", check)
    with pytest.raises(FileExistsError, match="named.csv exists already"):
        annotate(h5ad, model=model, out=out)
    assert out.read_text() == "theirs"
