"""What changed data cost: the changes, and the command."""

import json
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.accuracy import robustness
from benchmarks.accuracy.robustness import (
    Cells,
    by_ensembl_id,
    by_symbol,
    read_cells,
    thinned,
    without_genes,
    write_changed,
)
from benchmarks.data.studies import read_validation_files

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
TYPES = ("CL:0000236", "CL:0000084", "CL:0000576")


def _write(folder, adata, name):
    n_cells = adata.n_obs
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical((TYPES * n_cells)[:n_cells])
    adata.obs["tissue_ontology_term_id"] = pd.Categorical(["UBERON:0000178"] * n_cells)
    adata.write_h5ad(folder / f"{name}.h5ad")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_cells):
    """Counts of one study, and log1p values of 10,000 counts a cell of another."""
    corpus = tmp_path_factory.mktemp("shared") / "corpus"
    folder = corpus / "validation" / "cells"
    folder.mkdir(parents=True)
    _write(folder, make_cells(30, seed=1), "raw")
    logs = make_cells(30, seed=2)
    totals = np.asarray(logs.X.sum(axis=1)).ravel()
    logs.X = (sparse.diags(1e4 / totals) @ logs.X).log1p().tocsr().astype(np.float32)
    _write(folder, logs, "logs")
    lines = ["name\trole\tscale\tstudy", "raw\tvalidation\tcounts\tRaw"]
    lines += ["logs\tvalidation\tlog1p\tLogs"]
    (corpus / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return corpus


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cells(rng):
    counts = sparse.csr_matrix(rng.poisson(20, (50, 40)).astype(np.float32))
    names = np.array([f"G{i}" for i in range(40)], dtype=object)
    return Cells(counts=counts, names=names, ensembl_ids=names)


def test_normalised_values_are_counts_again(corpus, make_cells):
    logs = next(file for file in read_validation_files(corpus) if file.name == "logs")
    got = read_cells(logs).counts.toarray()
    counts = make_cells(30, seed=2).X.toarray()
    smallest = np.where(counts > 0, counts, np.inf).min(axis=1, keepdims=True)
    # float32 logarithms of values up to 10,000
    assert got == pytest.approx(counts / smallest, rel=1e-4)


def test_thinning_keeps_the_share_and_adds_nothing(cells, rng):
    some = thinned(0.2)(cells, rng)
    assert some.counts.sum() / cells.counts.sum() == pytest.approx(0.2, abs=0.01)  # 40,000 draws
    assert (some.counts.toarray() <= cells.counts.toarray()).all()
    assert (some.counts.data > 0).all()
    assert cells.counts.sum() > 30_000, "the original is changed"


def test_genes_are_left_out_with_their_names(cells, rng):
    some = without_genes(0.3)(cells, rng)
    assert some.counts.shape == (50, 28) and len(set(some.names)) == 28
    for column in (0, 27):
        original = int(some.names[column][1:])
        assert (some.counts[:, [column]] != cells.counts[:, [original]]).nnz == 0


def test_names_stand_for_the_same_genes(rng):
    ids = np.array(["ENSG00000177455", "", "ENSG00000134539"], dtype=object)
    names = np.array(["B4", "spike", "KLRD1"], dtype=object)  # B4: an alias of CD19
    cells = Cells(counts=sparse.csr_matrix((1, 3)), names=names, ensembl_ids=ids)
    assert by_ensembl_id(cells, rng).names.tolist() == [ids[0], "spike", ids[2]]
    assert by_symbol(cells, rng).names.tolist() == ["CD19", "spike", "KLRD1"]


def test_a_changed_file_keeps_its_labels(corpus, tmp_path):
    file = read_validation_files(corpus)[0]
    changed = write_changed(file, without_genes(0.3), tmp_path, seed=3)
    assert changed.truth_ids is file.truth_ids and changed.study == file.study
    assert changed.path != file.path and anndata.read_h5ad(changed.path).shape == (30, 280)
    again = write_changed(file, without_genes(0.3), tmp_path, seed=3)
    assert (read_cells(again).names == read_cells(changed).names).all()


def test_a_table_and_one_line_of_json(corpus, tiny_bag, capsys, monkeypatch):
    words = ["--model", str(tiny_bag), "--shared", str(corpus.parent)]
    monkeypatch.setattr(sys, "argv", ["robustness", *words, "--threads", "1"])
    robustness.main()
    printed = capsys.readouterr().out.splitlines()
    figures = json.loads(printed[-1])["figures"][str(tiny_bag)]
    assert list(figures) == [*robustness.COSTLY, *robustness.NEUTRAL]
    assert figures["as published"]["cost"] == 0
    assert {"Raw", "Logs"} <= set(figures["counts x 0.2"])
    for name, row in figures.items():
        if "cost" in row:
            assert row["mean"] + row["cost"] == pytest.approx(
                figures["as published"]["mean"], abs=2e-4
            ), name
    assert figures["Ensembl ids"]["equal_calls"] == figures["symbols"]["equal_calls"] == 1
