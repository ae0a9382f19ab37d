"""What the benchmarks of search and evidence measure, on cases worked out by hand."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.accuracy import evidence, search
from benchmarks.scoring.retrieval import chance_mrr, retrieve
from benchmarks.scoring.search_scores import (
    by_threshold,
    choose,
    decide,
    right_cells,
    without_own_study,
)
from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.model.langcell import LangCell

TYPES = ("CL:0000236", "CL:0000084", "CL:0000576")


def make_scores(study="A"):
    """Four cells; types 0 and 1 are there, 2 and 3 are not."""
    return SimpleNamespace(
        file=SimpleNamespace(study=study),
        present=np.array([0, 1]),
        absent=np.array([2, 3]),
        is_right=np.array([[1, 0], [1, 0], [0, 1], [0, 0]], dtype=bool),
        is_known=np.array([[1, 1], [1, 1], [1, 1], [1, 0]], dtype=bool),
    )


VALUES = np.array(
    [[5.0, 0, 0, 0], [1, 3, 2, 0], [0, 4, 0, 0], [3, 9, 0, 0]],
)


def test_cells_of_a_type_and_below_are_right_and_coarser_ones_are_not_judged():
    t_cell, cd4, b_cell = range(3)
    closure = sparse.csr_matrix(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=bool))
    labels, types = np.array([t_cell, cd4, b_cell]), np.array([t_cell, cd4])
    is_right, is_known = right_cells(closure, labels, types)
    assert is_right.tolist() == [[True, False], [True, True], [False, False]]
    assert is_known.tolist() == [[True, False], [True, True], [True, True]]


def test_figures_of_a_threshold_by_hand():
    of = make_scores()
    found = decide(of, VALUES, np.array([2.0, 6.0]))
    # type 0: cells 0 and 3 are hits, one of them right, of two; type 1: cells 1 and 2, one right, of
    # one, and cell 3 may be right or not.
    assert found.loc[2.0].to_dict() == pytest.approx(
        {
            "precision": 0.5,
            "recall": (1 / 2 + 1) / 2,
            "f1": (2 / 4 + 2 / 3) / 2,
            "detected": 1,
            "absent_none": 0.5,
            "absent_fpr": 1 / 8,
        }
    )
    nothing = found.loc[6.0]
    assert nothing["recall"] == nothing["precision"] == 0 and nothing["absent_none"] == 1


def test_a_threshold_is_chosen_without_the_study():
    studies = [make_scores("A"), make_scores("B")]
    figures = by_threshold(studies, [VALUES, VALUES - 2], np.array([0.5, 2.5]))
    assert choose(figures.loc[["A"]], answered=0.0) == 2.5
    assert choose(figures.loc[["B"]], answered=0.0) == 0.5
    held_out = without_own_study(figures, 0.0)
    assert held_out["threshold"].to_dict() == {"A": 0.5, "B": 2.5}


def test_retrieval_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.7, 0.1]])
    is_right = np.array([[0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    is_known = np.array([[1, 1, 1, 1], [0, 1, 1, 1]], dtype=bool)
    found = retrieve(scores, is_right, is_known)
    assert found.recall == (0.0, 1.0, 1.0)
    assert found.mrr == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found.chance_recall[0] == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_chance_is_that_of_random_orders():
    rng = np.random.default_rng(0)
    draws = [1 / (1 + min(rng.permutation(30)[:4])) for _ in range(20_000)]
    assert chance_mrr(30, 4) == pytest.approx(np.mean(draws), rel=0.02)


def test_the_area_under_the_deletion_curve():
    rows = pd.DataFrame(
        {"start": 10.0, "score_drop": [0.5, 1.5, 2.5, 5.0, 10.0]}, index=[1, 3, 5, 10, 20]
    )
    # A straight line from the whole score to nothing.
    assert evidence.area(rows) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_cells):
    corpus = tmp_path_factory.mktemp("shared") / "corpus"
    folder = corpus / "validation" / "cells"
    folder.mkdir(parents=True)
    lines = ["name\trole\tscale\tstudy"]
    for number, study in enumerate("AB"):
        adata = make_cells(30, seed=number)
        adata.obs["cell_type_ontology_term_id"] = pd.Categorical(TYPES * 10)
        adata.obs["tissue_ontology_term_id"] = pd.Categorical(["UBERON:0000178"] * 30)
        adata.write_h5ad(folder / f"{study}.h5ad")
        lines.append(f"{study}\tvalidation\tcounts\t{study}")
    (corpus / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return corpus


@pytest.fixture(scope="module")
def model(tiny_bag, tmp_path_factory):
    model = LangCell.from_pretrained(str(tiny_bag))
    rows = np.random.default_rng(0).normal(size=(300, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    model.reference = ReferenceCells(features=rows.astype(np.float16))
    folder = tmp_path_factory.mktemp("models") / "with-reference"
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("module", [search, evidence])
def test_a_table_and_one_line_of_json(module, corpus, model, capsys, monkeypatch):
    name = module.__name__.rsplit(".", 1)[-1]
    words = [name, "--model", str(model), "--shared", str(corpus.parent), "--threads", "1"]
    # The cells of the tests read 32 genes: 40 are needed to take 20 out.
    monkeypatch.setattr(evidence, "K", (1, 3))
    monkeypatch.setattr(sys, "argv", [*words, *(["--cells", "6"] if module is evidence else [])])
    module.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    figures = record["figures"][str(model)]
    assert record["benchmark"] == name
    if module is evidence:
        drops = {method: figures[method]["score_drop_3"] for method in evidence.METHODS}
        assert drops["evidence"] == max(drops.values()) > 2 * abs(drops["random"])
    else:
        assert set(figures["decision, 1%"]["studies"]) == {"A", "B"}
        assert figures["cell_to_text"]["chance R@1"] == pytest.approx(1 / 3057, abs=1e-5)
