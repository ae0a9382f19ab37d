"""`--tissue`: weighing and restricting candidates, one tissue or one a cell."""

import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from langcell.model import LangCell
from ontology.graph import Ontology
from ontology.tissue_prior import TissuePrior
from zeroshot.annotator import AnnotateOptions, annotate
from zeroshot.candidates import all_candidates
from zeroshot.index import LabelIndex
from zeroshot.scores import score_cells
from zeroshot.tissue import STRENGTH, weigh_by_tissue

BLOOD, LUNG, LIVER = "UBERON:0000178", "UBERON:0002048", "UBERON:0002107"
HEPATOCYTE, T_CELL = "CL:0000182", "CL:0000084"


@pytest.fixture(scope="module")
def model(tiny_model):
    return LangCell.from_pretrained(str(tiny_model))


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


@pytest.fixture
def mixed(make_cells):
    adata = make_cells(40)
    adata.obs["tissue_ontology_term_id"] = [BLOOD, LUNG, "", "CL:0000057"] * 10
    return adata


def test_groups_of_an_index_have_offsets_of_their_own():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(300, 8)).astype(np.float32)
    labels = rng.normal(size=(20, 8)).astype(np.float32)
    offsets = rng.normal(size=(3, 20))
    groups = rng.integers(0, 3, 300)
    ids = [str(i) for i in range(20)]
    together = score_cells(cells, LabelIndex(labels, ids, offsets), scale=2, top_k=4, groups=groups)
    logits = 2 * (cells @ labels.T - offsets[groups])
    wanted = -np.sort(-log_softmax(logits, axis=1), axis=1)[:, :4]
    assert together.log_probabilities == pytest.approx(wanted, abs=1e-4)
    assert (together.best == logits.argmax(axis=1)).all()
    first = score_cells(cells, LabelIndex(labels, ids, offsets), scale=2, top_k=4)
    alone = score_cells(cells, LabelIndex(labels, ids, offsets[0]), scale=2, top_k=4)
    assert (first.candidates == alone.candidates).all(), "without groups all are of the first"


def test_weighing_adds_the_log_prior(make_cells, model, ontology):
    plain, weighed = make_cells(30), make_cells(30)
    options = AnnotateOptions(top_k=3057)
    annotate(plain, model=model, options=options)
    annotate(weighed, model=model, options=AnnotateOptions(top_k=3057, tissue="blood"))
    ids = weighed.uns["langcell"]["candidate_ids"]
    prior = STRENGTH * TissuePrior(ontology).log_prior(BLOOD, ids)
    before = plain.obsm["langcell_scores"].toarray().astype(np.float64)
    wanted = before * np.exp(prior)
    wanted /= wanted.sum(axis=1, keepdims=True)
    # What is stored is rounded to 1e-5, and most of 3,057 labels have little more than that.
    stored = weighed.obsm["langcell_scores"].toarray()
    assert stored == pytest.approx(wanted, rel=0.01, abs=2e-4)


def test_restricting_leaves_nothing_to_what_it_excludes(make_cells, model, ontology):
    adata = make_cells(30)
    options = AnnotateOptions(tissue="lung", tissue_mode="restrict", top_k=3000)
    annotations = annotate(adata, model=model, options=options)
    notes = adata.uns["langcell"]["tissue"]["tissues"][LUNG]
    ids = adata.uns["langcell"]["candidate_ids"]
    assert HEPATOCYTE in notes["excluded"] and T_CELL not in notes["excluded"]
    assert notes["n_excluded"] == len(notes["excluded"]) == len(set(notes["excluded"]))
    columns = np.isin(ids, notes["excluded"])
    scores = adata.obsm["langcell_scores"].toarray()
    assert not scores[:, columns].any()
    assert scores.sum(axis=1) == pytest.approx(1, abs=0.05)  # of the best 3000, rounded
    assert not set(annotations.term_ids) & set(notes["excluded"])


def test_each_cell_has_its_own_tissue(mixed, make_cells, model):
    together = annotate(mixed, model=model, options=AnnotateOptions(tissue="auto"))
    for tissue, start in (("blood", 0), ("lung", 1), (None, 2), (None, 3)):
        alone = annotate(make_cells(40), model=model, options=AnnotateOptions(tissue=tissue))
        assert (together.best[start::4] == alone.best[start::4]).all()
    weights = together.candidates.tissue
    assert weights.tissues == ("", BLOOD, LUNG)
    assert weights.unknown == {"": 10, "CL:0000057": 10}
    lines = weights.summary(together.candidates.names)
    assert len(lines) == 3 and "blood (UBERON:0000178) demotes" in lines[0]
    assert lines[2] == "not known for 20 cells ('', 'CL:0000057'), called without"
    kept = mixed.uns["langcell"]["tissue"]
    assert set(kept["tissues"]) == {BLOOD, LUNG} and kept["mode"] == "weigh"
    assert (kept["tissues"][BLOOD]["log_prior"] < 0).all()


def test_calls_do_not_depend_on_other_cells_or_tissues(mixed, model):
    together = annotate(mixed, model=model, options=AnnotateOptions(tissue="auto"))
    order = np.random.default_rng(1).permutation(40)[:17]
    apart = mixed[order].copy()
    options = AnnotateOptions(tissue="auto", overwrite=True, batch_size=4)
    assert (annotate(apart, model=model, options=options).best == together.best[order]).all()


def test_notes_survive_a_file(mixed, model, tmp_path):
    mixed.write_h5ad(tmp_path / "cells.h5ad")
    options = AnnotateOptions(tissue="auto", tissue_mode="restrict")
    annotate(tmp_path / "cells.h5ad", model=model, out=tmp_path / "named.h5ad", options=options)
    notes = anndata.read_h5ad(tmp_path / "named.h5ad").uns["langcell"]["tissue"]
    annotate(mixed, model=model, options=options)
    assert set(notes["tissues"]) == {BLOOD, LUNG}
    assert notes["unknown"]["values"].tolist() == ["", "CL:0000057"]
    assert notes["unknown"]["n_cells"].tolist() == [10, 10]
    for tissue in (BLOOD, LUNG):
        wanted = mixed.uns["langcell"]["tissue"]["tissues"][tissue]["excluded"]
        assert notes["tissues"][tissue]["excluded"].tolist() == wanted.tolist()


def test_labels_of_ones_own_and_free_text(make_cells, model):
    options = AnnotateOptions(tissue="liver", tissue_mode="restrict")
    labels = ["hepatocyte", "podocyte", "T cell", "text: a cell that glows"]
    annotations = annotate(make_cells(40), model=model, labels=labels, options=options)
    assert "podocyte" not in annotations.names
    assert "a cell that glows" in annotations.names, "no tissue speaks about free text"
    with pytest.raises(ValueError, match="lung leaves 1 of the 2 labels; use --tissue-mode weigh"):
        options = AnnotateOptions(tissue="lung", tissue_mode="restrict")
        annotate(make_cells(4), model=model, labels=["hepatocyte", "T cell"], options=options)


def test_what_is_listed_first_is_what_one_would_miss_most(ontology):
    candidates = all_candidates(ontology)
    weights = weigh_by_tissue(
        "", "blood", mode="weigh", term_ids=candidates.ids, keys=candidates.keys, ontology=ontology
    )
    first = [candidates.names[each] for each in weights.listed[0][:20]]
    assert {"endothelial cell", "fibroblast", "epithelial cell", "macrophage"} & set(first)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"tissue": "bloood"}, r"tissue 'bloood' is unknown in UBERON .*near it: blood \(UBERON"),
        ({"tissue": "UBERON:9999999"}, "give an UBERON name or id"),
        ({"tissue": "auto"}, "no column 'tissue_ontology_term_id' in obs; it has cell_type"),
    ],
)
def test_bad_tissues_are_one_line(make_cells, model, options, line):
    with pytest.raises(ValueError, match=line) as error:
        annotate(make_cells(4), model=model, options=AnnotateOptions(**options))
    assert "\n" not in str(error.value)


def test_no_known_tissue_and_options_that_make_no_sense(make_cells, model):
    adata = make_cells(4)
    adata.obs["tissue_ontology_term_id"] = pd.Categorical(["somewhere"] * 4)
    with pytest.raises(ValueError, match=r"is a tissue of UBERON \(it has 'somewhere'\)"):
        annotate(adata, model=model, options=AnnotateOptions(tissue="auto"))
    with pytest.raises(ValueError, match="tissue_mode must be weigh or restrict, got 'harsh'"):
        AnnotateOptions(tissue="lung", tissue_mode="harsh")
    with pytest.raises(ValueError, match="need a tissue: --tissue NAME, or auto"):
        AnnotateOptions(tissue_mode="restrict")


def test_command_says_what_it_demotes(make_cells, tiny_model, tmp_path):
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    words = ["--h5ad", tmp_path / "cells.h5ad", "--model", tiny_model, "--out", tmp_path / "a.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "langcell", "zeroshot", *map(str, words), "--tissue", "lung"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "lung (UBERON:0002048) demotes" in done.stderr
