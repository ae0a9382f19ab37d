"""The benchmark of matching, at a size that takes no time."""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.data.studies import read_validation_files
from benchmarks.speed import matching
from benchmarks.speed.matching import PAPER, Clock, plain_loop, random_cell
from benchmarks.speed.rerank_agreement import agreement, padded_candidates
from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from ontology.graph import Ontology

TYPES = ["CL:0000236", "CL:0000084", "CL:0000576"]
SIZES: dict[str, Any] = {"hidden_size": 16, "n_layers": 2, "n_heads": 2, "intermediate_size": 24}
SMALL = replace(
    PAPER,
    cell=replace(PAPER.cell, **SIZES, vocab_size=90, max_positions=33),
    text=replace(PAPER.text, **SIZES, encoder_width=16),
    embedding_dim=8,
    max_genes=32,
)


@pytest.fixture
def corpus(tmp_path, make_cells):
    adata = make_cells(12, seed=1)
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical(TYPES * 4)
    adata.obs["tissue_ontology_term_id"] = pd.Categorical(["UBERON:0000178"] * 12)
    folder = tmp_path / "corpus" / "validation" / "cells"
    folder.mkdir(parents=True)
    adata.write_h5ad(folder / "raw.h5ad")
    manifest = "name\trole\tscale\tstudy\nraw\tvalidation\tcounts\tRaw\n"
    (tmp_path / "corpus" / "manifest.tsv").write_text(manifest)
    return tmp_path


def test_the_paper_s_model_has_the_size_of_the_release():
    with torch.device("meta"):
        model = LangCell(PAPER)
    # Token types are part of positions here, and neither tower has a tanh pooler.
    n_cell, n_text = 39_302_656 - 2 * 512, 133_130_496 - 768 * 769
    assert sum(each.numel() for each in model.cell_encoder.parameters()) == n_cell
    assert sum(each.numel() for each in model.text_encoder.parameters()) == n_text


def test_the_plain_loop_reads_a_label_after_the_other():
    torch.manual_seed(0)
    model = LangCell(SMALL).eval()
    done = []
    with inference(model):
        texts = matching.label_texts(model, 3, seed=0)
        ids, mask = random_cell(model, torch.Generator().manual_seed(0))
        cell = model.encode_cell(ids, mask)
        found = plain_loop(model, texts, cell, done.append)
        each = [model.match(text, cell) for text in texts]
    assert done == [1, 2, 3] and ids.shape == (1, 33) and len(ids.unique()) == 33
    torch.testing.assert_close(found, torch.cat(each), atol=1e-5, rtol=0)


def test_candidates_hold_the_study_s_own_types():
    found = padded_candidates(TYPES, 9, Ontology.bundled(), np.random.default_rng(0))
    assert found.ids[:3] == tuple(TYPES) and len(set(found.ids)) == 9 and found.is_choice


def test_reranking_all_labels_agrees_with_matching_all(corpus, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path / "cache"))
    files = read_validation_files(corpus / "corpus")
    model = LangCell.from_pretrained(tiny_model)
    shares = agreement(model, files, (2, 6), n_labels=6, n_cells=8, seed=0)
    assert shares[6] == 1 and 0 <= shares[2] <= 1


def test_a_table_and_one_line_of_json(corpus, tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(matching, "PAPER", SMALL)
    monkeypatch.setattr(matching, "_AGREEMENT", (2,))
    words = ["--labels", "4", "2", "--cells", "2", "--model", str(tiny_model)]
    words += ["--agreement-cells", "5", "--shared", str(corpus)]
    monkeypatch.setattr(sys, "argv", ["matching", *words])
    matching.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["CPU", "s", "a", "cell", "plain", "exact", "rerank", "10"]
    assert [line.split()[0] for line in lines[2:4]] == ["2", "4"]
    record = json.loads(lines[-1])
    assert record["benchmark"] == "matching" and record["cells"] == 2
    assert set(record["seconds"]) == {"2", "4"} and set(record["agreement"]) == {"2"}


def test_a_clock_adds_up_by_name():
    clock = Clock("cpu")
    for _ in range(3):
        with clock.measuring("a"):
            sum(range(1000))
    assert len(clock.seconds["a"]) == 3 and 0 <= clock.median("a") < 1
