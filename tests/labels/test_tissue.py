"""`--tissue`: weighing and restricting candidates, one tissue or one a cell."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from benchmarks.scoring.model_scores import candidate_scores
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from ontology.tissue_prior import TissuePrior
from tests.support.command_line import run_langcell
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.labels.candidates import all_candidates
from zeroshot.labels.tissue_weights import STRENGTH, TissueWeights, weigh_by_tissue

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


def test_each_cell_is_weighed_by_its_own_tissue():
    rng = np.random.default_rng(0)
    prior, rows = rng.normal(size=(3, 20)), rng.integers(0, 3, 50)
    weights = TissueWeights(
        mode="weigh",
        tissues=(BLOOD, LUNG, LIVER),
        names=("blood", "lung", "liver"),
        keys=tuple(map(str, range(20))),
        log_prior=prior,
        listed=(),
        rows=rows,
    )
    logits = log_softmax(rng.normal(size=(30, 20)), axis=1).astype(np.float32)
    wanted = log_softmax(logits + prior[rows[10:40]], axis=1)
    assert weights.weigh(logits, 10) == pytest.approx(wanted, abs=1e-5)


def test_weighing_adds_the_log_prior(make_cells, model, ontology):
    adata = make_cells(30)
    annotate(adata, model=model, options=AnnotateOptions(top_k=3057, tissue="blood"))
    everything = all_candidates(ontology)
    prior = STRENGTH * TissuePrior(ontology).log_prior(BLOOD, everything.ids)
    plain = candidate_scores(model, adata.obsm["X_langcell"], everything, even=False)
    weighed = log_softmax(plain + prior, axis=1).astype(np.float32)
    wanted = np.exp(everything.subtypes.pass_down(weighed))
    # What is stored are the best of the 512 nearest, rounded to 1e-5.
    stored = adata.obsm["langcell_scores"].toarray()
    assert stored[stored > 0] == pytest.approx(wanted[stored > 0], rel=0.01, abs=2e-5)
    assert (stored.argmax(axis=1) == wanted.argmax(axis=1)).all()


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
    assert (
        lines[2]
        == "unknown for 20 cells ('', 'CL:0000057'); these are called without a tissue prior"
    )
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
    with pytest.raises(ValueError, match="lung leaves 1 of the 2 labels; use tissue_mode='weigh'"):
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
        (
            {"tissue": "bloood"},
            r"tissue 'bloood' is unknown in UBERON .*did you mean blood \(UBERON",
        ),
        ({"tissue": "UBERON:9999999"}, "pass an UBERON name or id"),
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
    with pytest.raises(
        ValueError,
        match="tissue_mode and tissue_obo need a tissue; give a name or 'auto' as tissue",
    ):
        AnnotateOptions(tissue_mode="restrict")


def test_command_says_what_it_demotes(make_cells, tiny_model, tmp_path):
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    words = ["--h5ad", tmp_path / "cells.h5ad", "--model", tiny_model, "--out", tmp_path / "a.csv"]
    done = run_langcell(tmp_path, "zeroshot", *words, "--tissue", "lung")
    assert done.returncode == 0, done.stderr
    assert "lung (UBERON:0002048) demotes" in done.stderr
