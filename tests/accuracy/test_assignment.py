"""Puzzles of labelled files, answered in four ways, and the command."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import assignment
from benchmarks.accuracy.assignment import draw_puzzles, top_genes
from benchmarks.baselines.puzzle_solvers import SOLVERS, greedy, solve
from benchmarks.data.studies import read_validation_files
from langcell.counts.reader import open_counts
from zeroshot.decide.puzzle_files import write_puzzles
from zeroshot.decide.puzzles import Puzzle

TYPES = ("CL:0000236", "CL:0000084", "CL:0000576", "CL:0000623", "CL:0000451")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_cells):
    corpus = tmp_path_factory.mktemp("shared") / "corpus"
    folder = corpus / "validation" / "cells"
    folder.mkdir(parents=True)
    adata = make_cells(40)
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical((TYPES * 40)[:39] + ("",))
    adata.obs["tissue_ontology_term_id"] = pd.Categorical(["UBERON:0000178"] * 40)
    adata.obs["donor"] = pd.Categorical(["x"] * 20 + ["y"] * 20)
    adata.write_h5ad(folder / "blood.h5ad")
    (corpus / "manifest.tsv").write_text(
        "name\trole\tscale\tstudy\nblood\tvalidation\tcounts\tBlood\n"
    )
    return corpus


def test_puzzles_are_within_donors_and_as_large_as_the_types_allow(corpus):
    file = read_validation_files(corpus)[0]
    sets = list(draw_puzzles(file, file.truth_ids.astype(str), seed=0, n=5))
    assert [len(puzzles[0].cells) for puzzles in sets] == [4, 5]
    for puzzle in sets[0]:
        assert file.truth_ids[list(puzzle.cells)].tolist() == list(puzzle.labels)
        assert {each < 20 for each in puzzle.cells} == {puzzle.context == "x"}


def test_solvers_by_hand():
    # The best pair leaves 0.05 for the other; together 0.6 and 0.7 are worth more.
    table = np.log([[0.9, 0.6], [0.7, 0.05]])
    rng = np.random.default_rng(0)
    assert greedy(table, rng).tolist() == [0, 1]
    assert SOLVERS["joint"](table, rng).tolist() == [1, 0]
    assert SOLVERS["argmax"](table, rng).tolist() == [0, 0]
    assert sorted(SOLVERS["random"](table, rng)) == [0, 1]
    similarities = pd.DataFrame([[1.0, 0, 5], [9.0, 0, 8]], columns=["a", "unused", "b"])
    puzzle = Puzzle(cells=(1, 0), labels=("a", "b"))
    assert solve([puzzle], similarities, SOLVERS["argmax"], seed=0) == [("a", "b")]


def test_top_genes_are_the_highest(corpus):
    file = read_validation_files(corpus)[0]
    genes = top_genes(file, 5)
    assert len(genes) == file.n_cells == 39
    with open_counts(file.path) as matrix:
        counts = matrix.read(0, 40).counts.toarray()
        place = {name: column for column, name in enumerate(matrix.gene_names)}
    for row in (0, 38):
        values = [counts[row, place[name]] for name in genes[row]]
        assert values == sorted(counts[row], reverse=True)[:5]


@pytest.mark.parametrize("words", [(), ("--genes", "25"), ("--puzzles", "given.json")])
def test_a_table_and_one_line_of_json(corpus, tiny_bag, capsys, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    file = read_validation_files(corpus)[0]
    given = [Puzzle(cells=(0, 1, 2), labels=("B cell", "T cell", "monocyte"))]
    write_puzzles("given.json", given, top_genes(file, 20))
    options = ["--model", str(tiny_bag), "--shared", str(corpus.parent), "--threads", "1"]
    options += ["--seeds", "1", "--n-puzzles", "5", *words]
    monkeypatch.setattr(sys, "argv", ["assignment", *options])
    assignment.main()
    printed = capsys.readouterr().out.splitlines()
    figures = json.loads(printed[-1])["figures"][str(tiny_bag)]
    assert list(figures) == list(SOLVERS)
    for row in figures.values():
        assert 0 <= row["batch_accuracy"] <= row["cell_accuracy"] <= 1
    assert figures["joint"]["reward"] >= 0
