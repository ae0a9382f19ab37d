"""Exports, against the rules and validators of those who take them."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from langcell.genes.gene_table import GeneTable
from ontology.graph import Ontology
from zeroshot.annotation.annotate import annotate
from zeroshot.evidence.group_evidence import GroupCall, candidates_below, explain_groups
from zeroshot.export.cap import column_names
from zeroshot.export.cas import Publication, annotation_set
from zeroshot.export.cellxgene import EXCEPTIONS, FORBIDDEN, cell_type_ids, violations
from zeroshot.export.export import ExportOptions, write_export
from zeroshot.results.read_calls import read_calls

MONOCYTE, B_CELL, T_CELL = "CL:0000576", "CL:0000236", "CL:0000084"
HUMAN = {  # what CELLxGENE wants of every human data set beside its cell types
    "assay_ontology_term_id": "EFO:0009899",
    "development_stage_ontology_term_id": "unknown",
    "disease_ontology_term_id": "PATO:0000461",
    "donor_id": "one",
    "self_reported_ethnicity_ontology_term_id": "unknown",
    "sex_ontology_term_id": "PATO:0000383",
    "suspension_type": "cell",
    "tissue_ontology_term_id": "UBERON:0000178",
    "tissue_type": "tissue",
}

# Ids of the gene table that GENCODE 48, which the validator reads, has no longer.
RETIRED = ("ENSG00000241043", "ENSG00000227357", "ENSG00000169807")


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


@pytest.fixture(scope="module")
def annotated(tmp_path_factory, make_cells, tiny_model):
    """An h5ad that is complete but for its cell types, with calls of 40 cells."""
    adata = make_cells(40)
    adata.var_names = GeneTable.bundled().resolve(adata.var_names.to_numpy()).ensembl_ids
    adata = adata[:, ~adata.var_names.isin(RETIRED)].copy()
    adata.var["feature_is_filtered"] = False
    del adata.obs["cell_type"]
    for name, value in HUMAN.items():
        adata.obs[name] = pd.Categorical([value] * adata.n_obs)
    adata.obs["is_primary_data"] = True
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    adata.uns |= {"title": "Cells of nobody", "organism_ontology_term_id": "NCBITaxon:9606"}
    folder = tmp_path_factory.mktemp("annotated")
    adata.write_h5ad(folder / "plain.h5ad")
    annotate(folder / "plain.h5ad", model=str(tiny_model), out=folder / "named.h5ad")
    return folder / "named.h5ad"


@pytest.fixture
def called(annotated, tmp_path):
    """The same with calls after back-off, of which one cell has none, and an authors' column."""
    adata = anndata.read_h5ad(annotated)
    labels = ["monocyte"] * 20 + ["a cell that glows"] * 5 + ["unknown"] * 5 + ["cell"] * 10
    ids = [MONOCYTE] * 20 + [""] * 10 + ["CL:0000000"] * 10
    adata.obs["langcell_label"] = pd.Categorical(labels)
    adata.obs["langcell_ontology_term_id"] = pd.Categorical(ids)
    adata.obs["langcell_confidence"] = np.linspace(0.5, 0.99, 40)
    adata.obs["cell_type"] = pd.Categorical(["mono"] * 40)
    adata.uns["cell_type_colors"] = np.array(["#ff0000"], dtype=object)
    adata.write_h5ad(tmp_path / "called.h5ad")
    return tmp_path / "called.h5ad"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (MONOCYTE, ""),
        ("unknown", ""),
        ("CL:0000000", ""),
        ("", "is no term"),
        ("monocyte", "is no term"),
        ("CL:0000255", "is forbidden"),
        ("CL:0000257", "is forbidden"),
        ("CL:0000548", "is forbidden|is deprecated"),
        ("CL:0002071x", "is no term"),
    ],
)
def test_rules_of_the_column(ontology, value, wrong):
    found = violations(value, ontology)
    assert bool(found) == bool(wrong)
    if wrong:
        assert any(part in " ".join(found) for part in wrong.split("|"))


def test_deprecated_terms_are_against_the_rules(ontology):
    deprecated = [each for each in sorted(ontology.terms) if ontology.terms[each].is_obsolete]
    assert deprecated and violations(deprecated[0], ontology)[0].endswith("is deprecated")


def test_every_term_of_the_release_is_exported_by_the_rules(ontology):
    everything = np.array([*ontology.terms, "", "text"], dtype=object)
    values = cell_type_ids(everything, ontology)
    assert not [each for each in set(values) if violations(each, ontology)]
    assert not {"CL:0000000", *FORBIDDEN} & set(values), "says nothing, so it is unknown"
    kept = values[values != "unknown"]
    assert len(kept) > 3000 and (kept == everything[values != "unknown"]).all()


def test_spots_beside_the_tissue_are_unknown(ontology):
    values = cell_type_ids(np.array([MONOCYTE] * 3, object), ontology, np.array([1, 0, 1], bool))
    assert values.tolist() == [MONOCYTE, "unknown", MONOCYTE]


def test_our_rules_are_those_of_the_schema():
    spec = importlib.util.find_spec("cellxgene_schema")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("cellxgene-schema is not installed (it pins an older anndata)")
    folder = Path(spec.submodule_search_locations[0]) / "schema_definitions"
    schema = yaml.safe_load((folder / "schema_definition.yaml").read_text(encoding="utf-8"))
    column = schema["components"]["obs"]["columns"]["cell_type_ontology_term_id"]
    rules = column["curie_constraints"]
    assert {each for each in rules["forbidden"]["terms"] if each.startswith("CL:")} == FORBIDDEN
    assert set(rules["exceptions"]) == EXCEPTIONS
    assert rules["allowed"]["ancestors"]["CL"] == ["CL:0000000"]
    assert column["add_labels"][0]["to_column"] == "cell_type"


def test_cellxgene_adds_one_column(annotated, ontology, tmp_path):
    lines = write_export(annotated, tmp_path / "out.h5ad", format="cellxgene")
    before, after = anndata.read_h5ad(annotated), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert after.obs.columns.tolist() == [*before.obs.columns, "cell_type_ontology_term_id"]
    values = after.obs["cell_type_ontology_term_id"].astype(str)
    called = before.obs["langcell_ontology_term_id"].astype(str).replace("", "unknown")
    assert (values == called).all()
    assert set(before.obsm) - set(after.obsm) == {"langcell_scores", "langcell_terms"}, (
        "sparse, so not allowed"
    )
    assert any("langcell_scores\tleft out" in line for line in lines)
    assert (after.X != before.X).nnz == 0
    assert (after.obsm["X_langcell"] == before.obsm["X_langcell"]).all()
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)


def test_calls_after_back_off_come_first_and_authors_types_are_kept(called, tmp_path):
    out = tmp_path / "out.h5ad"
    lines = write_export(called, out, format="cellxgene")
    adata = anndata.read_h5ad(out)
    values = adata.obs["cell_type_ontology_term_id"].tolist()
    assert values == [MONOCYTE] * 20 + ["unknown"] * 20
    assert adata.obs["cell_type"].tolist() == ["mono"] * 40
    assert any(line.startswith("cell_type\tCELLxGENE adds this column itself") for line in lines)
    with pytest.raises(ValueError, match=r"already has obs\['cell_type_ontology_term_id'\]"):
        write_export(out, tmp_path / "again.h5ad", format="cellxgene")
    with pytest.raises(ValueError, match="names needs write_cell_type=True"):
        write_export(
            called, tmp_path / "x.h5ad", format="cellxgene", options=ExportOptions(names=True)
        )
    options = ExportOptions(write_cell_type=True, names=True)
    write_export(out, tmp_path / "again.h5ad", format="cellxgene", options=options)
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert again.obs["cell_type_before"].tolist() == ["mono"] * 40
    assert again.obs["cell_type_ontology_term_id_before"].tolist() == values
    assert again.obs["cell_type"].tolist() == ["monocyte"] * 20 + ["unknown"] * 20
    assert "cell_type_before_colors" in again.uns and "cell_type_colors" not in again.uns
    with pytest.raises(ValueError, match=r"already has obs\['cell_type_ontology_term_id_before'\]"):
        write_export(tmp_path / "again.h5ad", out, format="cellxgene", options=_over(options))


def _over(options):
    return ExportOptions(**{**vars(options), "overwrite": True})


@pytest.mark.skipif(
    shutil.which("cellxgene-schema") is None,
    reason="the program cellxgene-schema is not on the path (pipx install cellxgene-schema)",
)
def test_cellxgenes_validator_accepts_the_file(annotated, called, tmp_path):
    write_export(
        called, tmp_path / "a.h5ad", format="cellxgene", options=ExportOptions(write_cell_type=True)
    )
    done = _validated(tmp_path / "a.h5ad")
    assert done.returncode == 0, done.stdout + done.stderr
    # The validator is awake: with the column of names it refuses.
    write_export(
        annotated, tmp_path / "names.h5ad", format="cellxgene", options=ExportOptions(names=True)
    )
    done = _validated(tmp_path / "names.h5ad")
    assert done.returncode != 0 and "'cell_type' is a reserved column" in done.stdout + done.stderr


def _validated(path):
    command = ["cellxgene-schema", "validate", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def test_cap_columns(called, ontology, tmp_path):
    options = ExportOptions(author="Ada Byron", labelset="zero_shot")
    write_export(called, tmp_path / "cap.h5ad", format="cap", options=options)
    adata = anndata.read_h5ad(tmp_path / "cap.h5ad")
    columns = column_names("zero_shot")
    assert set(columns) <= set(adata.obs.columns)
    rows = adata.obs[columns]
    assert rows["zero_shot"].tolist() == anndata.read_h5ad(called).obs["langcell_label"].tolist()
    first, glowing, unknown = (rows.iloc[row] for row in (0, 20, 25))
    assert first["zero_shot--cell_fullname"] == "monocyte"
    assert first["zero_shot--cell_ontology_term_id"] == MONOCYTE
    assert first["zero_shot--cell_ontology_term"] == "monocyte"
    assert first["zero_shot--category_cell_ontology_term_id"] in ontology.parents(MONOCYTE)
    assert "20 cells" in first["zero_shot--rationale"] and "0.62" in first["zero_shot--rationale"]
    assert bool(first["zero_shot--cell_ontology_exists"])
    assert not bool(glowing["zero_shot--cell_ontology_exists"])
    assert glowing["zero_shot--cell_ontology_term_id"] == "NA"
    assert unknown["zero_shot--cell_fullname"] == "unknown", "a reserved word, equal to the label"
    assert rows["zero_shot--cell_ontology_exists"].dtype == bool
    notes = adata.uns["cellannotation_metadata"]["zero_shot"]
    assert notes["annotation_method"] == "algorithmic" and "langcell" in notes["algorithm_name"]
    assert adata.uns["author_name"] == "Ada Byron" and adata.uns["title"] == "Cells of nobody"
    with pytest.raises(ValueError, match="pass another labelset"):
        write_export(tmp_path / "cap.h5ad", tmp_path / "b.h5ad", format="cap", options=options)


def test_genes_that_raise_a_call_are_its_evidence(called, ontology, tmp_path):
    options = ExportOptions(author="Ada Byron", evidence=True)
    write_export(called, tmp_path / "cap.h5ad", format="cap", options=options)
    adata = anndata.read_h5ad(tmp_path / "cap.h5ad")
    genes = adata.obs["langcell--marker_gene_evidence"]
    assert genes.iloc[0] not in ("", "NA") and genes.iloc[25] == "NA", "unknown has none"
    named = genes.iloc[0].split(", ")
    measured = {GeneTable.bundled().symbol(each) for each in adata.var_names}
    assert len(named) == 6 and set(named) <= measured
    members = read_calls(called, ontology).labels
    keys = [str(each) for each in adata.uns["langcell"]["candidate_ids"]]
    below = candidates_below(MONOCYTE, keys, ontology)
    mean = np.asarray(adata.obsm["langcell_scores"].tocsr()[members == "monocyte"].mean(axis=0))
    call = GroupCall(group="monocyte", call="x", term_id=MONOCYTE, weights=mean.ravel() * below)
    found = explain_groups(adata, [call], members, adata.uns["langcell"], ontology=ontology)
    assert named == [gene.symbol for gene in found["monocyte"].raising]
    write_export(called, tmp_path / "cas.json", format="cas", options=options)
    document = json.loads((tmp_path / "cas.json").read_text(encoding="utf-8"))
    by_label = {each["cell_label"]: each for each in document["annotations"]}
    assert by_label["monocyte"]["marker_gene_evidence"] == named
    assert "marker_gene_evidence" not in by_label["unknown"]
    adata.uns["langcell"]["model"] = "gone/for/good"
    adata.write_h5ad(tmp_path / "elsewhere.h5ad")
    with pytest.raises(OSError, match="no checkpoint folder 'gone/for/good'"):
        write_export(
            tmp_path / "elsewhere.h5ad", tmp_path / "b.json", format="cas", options=options
        )
    assert not (tmp_path / "b.json").exists()


def test_cap_validator_accepts_the_file(called, tmp_path):
    pytest.importorskip("cap_upload_validator", reason="pip install cap-upload-validator")
    from cap_upload_validator import UploadValidator
    from cap_upload_validator.errors import CapMultiException

    adata = anndata.read_h5ad(called)
    for name, value in {"organism": "Homo sapiens", "assay": "10x", "disease": "normal"}.items():
        adata.obs[name] = value
    adata.obs["tissue"] = "blood"
    adata.write_h5ad(called)
    options = ExportOptions(author="Ada Byron")
    write_export(called, tmp_path / "cap.h5ad", format="cap", options=options)
    UploadValidator(str(tmp_path / "cap.h5ad")).validate()
    # It does look: what it needs and does not find, it names.
    lacking = anndata.read_h5ad(tmp_path / "cap.h5ad")
    for name in [each for each in lacking.obsm if each.startswith("X_")]:
        del lacking.obsm[name]
    lacking.write_h5ad(tmp_path / "lacking.h5ad")
    with pytest.raises(CapMultiException, match="Embeddings are missing"):
        UploadValidator(str(tmp_path / "lacking.h5ad")).validate()


def test_cas_document(called, tmp_path):
    options = ExportOptions(author="Ada Byron")
    write_export(called, tmp_path / "cas.json", format="cas", options=options)
    document = json.loads((tmp_path / "cas.json").read_text(encoding="utf-8"))
    annotations = {each["cell_label"]: each for each in document["annotations"]}
    assert list(annotations) == ["a cell that glows", "cell", "monocyte", "unknown"]
    names = [name for each in annotations.values() for name in each["cell_ids"]]
    assert sorted(names) == sorted(anndata.read_h5ad(called).obs_names), "every cell once"
    assert annotations["monocyte"]["cell_ids"] == [f"cell{i}" for i in range(20)]
    assert annotations["monocyte"]["cell_ontology_term_id"] == MONOCYTE
    assert "cell_ontology_term_id" not in annotations["a cell that glows"]
    assert annotations["a cell that glows"]["cell_ontology_exists"] is False
    assert annotations["unknown"].keys() == {
        "labelset",
        "cell_label",
        "cell_fullname",
        "rationale",
        "cell_ids",
    }
    assert {each["labelset"] for each in annotations.values()} == {"langcell"}
    automated = document["labelsets"][0]["automated_annotation"]
    assert automated.keys() == {"algorithm_name", "algorithm_version", "algorithm_repo_url"}
    write_export(called, tmp_path / "two.json", format="cas", options=options)
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "cas.json").read_bytes()


@pytest.mark.parametrize("target", ["type", "state"])
def test_calls_by_a_head_are_said_to_be_by_it(called, tmp_path, target):
    adata = anndata.read_h5ad(called)
    notes = adata.uns["langcell"]
    head = {"id": "0123456789ab", "kind": "linear", "target": target, "n_cells": 300}
    keys = {each: notes[each][:2] for each in ("candidate_names", "candidate_ids")}
    adata.uns["langcell"] = {**notes, **keys, "candidates": "given", "head": head}
    adata.write_h5ad(tmp_path / "by_head.h5ad")
    options = ExportOptions(author="Ada Byron")
    write_export(tmp_path / "by_head.h5ad", tmp_path / "a.json", format="cas", options=options)
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    by = "a linear head (id 0123456789ab) fitted to 300 labelled cells"
    rationales = {each["cell_label"]: each["rationale"] for each in document["annotations"]}
    assert rationales["monocyte"] == (
        f"20 cells called 'monocyte' by {by}, from its 2 labels; mean uncalibrated confidence 0.62."
    )
    named = {"type": "cell type", "state": "state"}[target]
    assert f"5 cells that no {named} was called with enough" in rationales["unknown"]
    (labelset,) = document["labelsets"]
    starts = {"type": "Cell types", "state": "States of cells"}[target]
    wanted = f"{starts} called by langcell from expression with {by} (candidates: its 2 labels; "
    assert labelset["description"].startswith(wanted)
    name = labelset["automated_annotation"]["algorithm_name"]
    assert name.startswith("langcell (") and name.endswith(", linear head 0123456789ab)")
    write_export(tmp_path / "by_head.h5ad", tmp_path / "cap.h5ad", format="cap", options=options)
    written = anndata.read_h5ad(tmp_path / "cap.h5ad")
    assert written.obs["langcell--rationale"].iloc[0] == rationales["monocyte"]
    notes = written.uns["cellannotation_metadata"]["langcell"]
    assert notes["description"] == labelset["description"] and notes["algorithm_name"] == name


@pytest.mark.parametrize(
    ("candidates", "words"),
    [("given", "2 given candidates"), ("all cell types", "all cell types")],
)
def test_candidates_of_calls_without_a_head_are_a_sentence(called, ontology, candidates, words):
    calls = read_calls(called, ontology)
    names = calls.notes["candidate_names"][:2]
    notes = {**calls.notes, "candidates": candidates, "candidate_names": names}
    calls = replace(calls, notes={**notes, "calibration": {"id": "0123456789ab"}})
    about = Publication(title="Cells", author="Ada Byron", made=datetime(2026, 1, 1, tzinfo=UTC))
    document = annotation_set(calls, ontology, about, "mine", evidence={})
    texts = {each["cell_label"]: each["rationale"] for each in document["annotations"]}
    assert texts["monocyte"] == (
        "20 cells whose expression lies nearest, in the joint space of cells and texts, to the "
        f"description of 'monocyte', among {words}; mean calibrated confidence 0.62. "
        "Called without labels of the data set."
    )
    (described,) = document["labelsets"]
    assert f"the texts of the Cell Ontology (candidates: {words}; " in described["description"]


def test_cas_document_is_valid(called, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    spec = importlib.util.find_spec("cas_schema")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("cell-annotation-schema is not installed")
    write_export(
        called, tmp_path / "a.json", format="cas", options=ExportOptions(author="Ada Byron")
    )
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    for name in ("CAP_schema.json", "general_schema.json"):
        path = Path(spec.submodule_search_locations[0]) / "schemas" / name
        schema = json.loads(path.read_text(encoding="utf-8"))
        validator = jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.FormatChecker()
        )
        assert not [error.message for error in validator.iter_errors(document)]
        assert list(validator.iter_errors({**document, "annotations": [{}]})), "it is awake"


def test_calls_of_an_anndata_and_by_name(called, ontology):
    adata = anndata.read_h5ad(called)
    stored, held = read_calls(called, ontology), read_calls(adata, ontology)
    assert stored.name == held.name == "langcell"
    assert stored.cell_names.tolist() == held.cell_names.tolist() == adata.obs_names.tolist()
    assert stored.labels.tolist() == held.labels.tolist()
    assert stored.confidence == pytest.approx(adata.obs["langcell_confidence"].to_numpy())
    leaf = read_calls(called, ontology, name="langcell_leaf")
    assert leaf.term_ids.tolist() == adata.obs["langcell_leaf_ontology_term_id"].tolist()
    with pytest.raises(ValueError, match=r"calls that it has: langcell, langcell_leaf;"):
        read_calls(called, ontology, name="langcell_cluster")


def test_unassigned_cells_are_unknown_and_second_calls_have_their_confidence(called, ontology):
    adata = anndata.read_h5ad(called)
    adata.obs["langcell_assigned_label"] = ["monocyte"] * 2 + ["unassigned"] * (adata.n_obs - 2)
    adata.obs["langcell_assigned_ontology_term_id"] = [MONOCYTE] * 2 + [""] * (adata.n_obs - 2)
    adata.obs["langcell_assigned_confidence"] = [0.7] * 2 + [np.nan] * (adata.n_obs - 2)
    calls = read_calls(adata, ontology, name="langcell_assigned")
    assert calls.labels.tolist() == ["monocyte"] * 2 + ["unknown"] * (adata.n_obs - 2)
    assert calls.confidence[:2].tolist() == [0.7, 0.7] and np.isnan(calls.confidence[2:]).all()


def test_an_id_of_an_older_release_is_brought_up_to_date(called, ontology):
    replaced = next(
        each
        for each in sorted(ontology.terms)
        if ontology.terms[each].is_obsolete and ontology.current(each)
    )
    adata = anndata.read_h5ad(called)
    adata.obs["langcell_ontology_term_id"] = [replaced] * adata.n_obs
    assert set(read_calls(adata, ontology).term_ids) == {ontology.current(replaced)}


@pytest.mark.parametrize(
    ("form", "out", "options", "line"),
    [
        ("loom", "a.h5ad", {}, "format must be one of cellxgene, cap, cas, got 'loom'"),
        ("cas", "a.h5ad", {"author": "A B"}, "must end in .json"),
        ("cap", "a.json", {"author": "A B"}, "must end in .h5ad"),
        ("cas", "a.json", {}, "requires the author's name, got none; pass author"),
        ("cas", "a.json", {"author": "A B", "title": "x" * 201}, "1 to 200 characters, got 201"),
        ("cap", "a.h5ad", {"author": "A B", "calls": "mine"}, "no column 'mine_label'"),
        ("cellxgene", "a.h5ad", {"evidence": True}, "evidence works with cap and cas only"),
        ("cap", "a.h5ad", {"author": "A B", "head": object()}, "pass evidence=True too"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(called, tmp_path, form, out, options, line):
    with pytest.raises(ValueError, match=line) as error:
        write_export(called, tmp_path / out, format=form, options=ExportOptions(**options))
    assert "\n" not in str(error.value)
    assert not (tmp_path / out).exists()


def test_the_input_is_never_the_output(called, tmp_path):
    with pytest.raises(ValueError, match="is the input itself"):
        write_export(called, called, format="cellxgene", options=ExportOptions(overwrite=True))
    (tmp_path / "there.h5ad").touch()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_export(called, tmp_path / "there.h5ad", format="cellxgene")
    with pytest.raises(ValueError, match="is not an h5ad file"):
        (tmp_path / "text.h5ad").write_text("no")
        write_export(tmp_path / "text.h5ad", tmp_path / "x.h5ad", format="cellxgene")


def test_the_copy_holds_all_that_the_source_holds(called, tmp_path):
    write_export(called, tmp_path / "cap.h5ad", format="cap", options=ExportOptions(author="A B"))

    def stored(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: repr(item[()])}) if isinstance(item, h5py.Dataset) else None
                )
            )
        return found

    before, after = stored(called), stored(tmp_path / "cap.h5ad")
    changed = {name for name in before if after.get(name) != before[name]}
    assert not changed


def test_a_time_is_written_in_utc():
    made = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    fields = Publication(title="t", author="A B", made=made).fields()
    assert fields["cellannotation_timestamp"] == "2026-02-03T04:05:06Z"


def test_command(called, tmp_path):
    words = ["--h5ad", called, "--format", "cellxgene", "--out", tmp_path / "x.h5ad"]
    done = subprocess.run(
        [sys.executable, "-m", "langcell", "export", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "calls\tlangcell: 40 cells, 5 of them unknown"
    assert done.stdout.splitlines()[-1] == f"wrote\t{tmp_path / 'x.h5ad'}"
