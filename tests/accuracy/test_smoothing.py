"""What decoders change, measured: the figures by hand, and the command."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.accuracy import smoothing
from benchmarks.accuracy.smoothing import call_figures
from benchmarks.data.studies import LabelledFile
from ontology.graph import Ontology
from zeroshot.results.cell_scores import CellScores

TYPES = ("CL:0000236", "CL:0000084", "CL:0000576")  # B cell, T cell, monocyte
NK_T = "CL:0000814"  # a T cell


def _scores(best, ids):
    table = sparse.csr_matrix(np.eye(len(ids), dtype=np.float32)[best])
    return CellScores(probabilities=table, candidate_ids=ids, candidate_names=ids)


def test_figures_by_hand(tmp_path):
    file = LabelledFile(
        name="x",
        study="X",
        path=tmp_path,
        scale="counts",
        tissues=(),
        is_labelled=np.array([True, True, True, True, False]),
        truth_ids=np.array([TYPES[0], TYPES[1], TYPES[1], TYPES[2]], dtype=object),
    )
    ids = (*TYPES, NK_T)
    before = _scores([0, 0, 1, 0, 0], ids)
    after = _scores([0, 3, 0, 2, 1], ids)
    ontology = Ontology.bundled()
    own = call_figures(before, after, file, ontology, "own")
    # Of three changed cells one becomes right (the monocyte), one wrong, one stays wrong.
    assert (own["accuracy"], own["changed"]) == (0.5, 0.75)
    assert own["to_right"] == own["to_wrong"] == pytest.approx(1 / 3)
    assert own["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    every = call_figures(before, after, file, ontology, "all")
    assert every["accuracy"] == 0.75 and every["to_right"] == pytest.approx(2 / 3)


def test_a_table_and_one_line_of_json(tmp_path, make_cells, tiny_bag, capsys, monkeypatch):
    folder = tmp_path / "corpus" / "validation" / "cells"
    folder.mkdir(parents=True)
    adata = make_cells(40)
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical((TYPES * 40)[:40])
    adata.obs["tissue_ontology_term_id"] = pd.Categorical(["UBERON:0000178"] * 40)
    adata.write_h5ad(folder / "blood.h5ad")
    lines = "name\trole\tscale\tstudy\nblood\tvalidation\tcounts\tBlood\n"
    (tmp_path / "corpus" / "manifest.tsv").write_text(lines)
    kept = ("raw", "smooth 3", "smooth 3, expression", "smooth, clusters")
    monkeypatch.setattr(smoothing, "DECODERS", {name: smoothing.DECODERS[name] for name in kept})
    words = ["--model", str(tiny_bag), "--shared", str(tmp_path), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["smoothing", *words])
    smoothing.main()
    printed = capsys.readouterr().out.splitlines()
    record = json.loads(printed[-1])
    figures = record["figures"][str(tiny_bag)]
    assert list(figures) == list(kept) and record["files"] == ["blood"]
    assert figures["raw"]["own_changed"] == figures["raw"]["all_changed"] == 0
    for row in figures.values():
        assert set(row) == {
            *(
                f"own_{each}"
                for each in ("macro_f1", "accuracy", "changed", "to_right", "to_wrong")
            ),
            *(f"all_{each}" for each in ("accuracy", "changed", "to_right", "to_wrong")),
        }
