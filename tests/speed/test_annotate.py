"""Speed from file to calls: the files, the measuring, and the command."""

import json
import sys
import time

import anndata
import numpy as np
import pytest

from benchmarks.data.repeated_cells import read_real_cells, write_repeated
from benchmarks.speed import annotate as annotate_speed
from benchmarks.speed.process_speed import FEW, Tool, measure, run_measured
from langcell.genes.gene_table import GeneTable


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_cells):
    """Two files of counts that share some genes, and one of other values that is left out."""
    folder = tmp_path_factory.mktemp("shared") / "corpus"
    (folder / "train" / "cells").mkdir(parents=True)
    for name, genes in (("one", slice(0, 300)), ("two", slice(200, 400)), ("log", slice(0, 400))):
        make_cells(20, seed=len(name))[:, genes].copy().write_h5ad(
            folder / "train" / "cells" / f"{name}.h5ad"
        )
    lines = ["name\trole\tkind\tscale", "one\ttrain\tcells\tcounts", "two\ttrain\tcells\tcounts"]
    lines += ["log\ttrain\tcells\tlog1p", "profiles\ttrain\tprofiles\tcounts"]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_cells_of_all_studies_stand_over_the_genes_of_any(corpus, coding_genes):
    cells = read_real_cells(corpus)
    assert cells.counts.shape == (40, 400) and len(set(cells.ensembl_ids)) == 400
    wanted = anndata.read_h5ad(corpus / "train" / "cells" / "two.h5ad")
    ids = GeneTable.bundled().resolve(wanted.var_names).ensembl_ids
    columns = [cells.ensembl_ids.index(each) for each in ids]
    assert (cells.counts[20:, columns].toarray() == wanted.X.toarray()).all()
    assert cells.counts[20:].sum() == wanted.X.sum()


def test_repeated_cells_are_those_of_the_corpus_and_depend_on_the_seed(corpus, tmp_path):
    cells = read_real_cells(corpus)
    written = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_repeated(cells, tmp_path / f"{name}.h5ad", 60, seed=seed)
        written[name] = anndata.read_h5ad(tmp_path / f"{name}.h5ad").X.toarray()
    known = {row.tobytes() for row in cells.counts.toarray()}
    assert {row.tobytes() for row in written["a"]} <= known
    assert (written["a"] == written["b"]).all() and (written["a"] != written["c"]).any()


def test_no_corpus_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="name its folder with --shared"):
        read_real_cells(tmp_path)


def test_start_up_is_taken_off_the_steady_state(tmp_path):
    files = {size: tmp_path / f"{size}.h5ad" for size in (FEW, FEW + 1000)}
    for size, path in files.items():
        path.write_text(str(size))
    # Half a second to begin with, then a thousand cells in another half.
    code = "import sys, time; time.sleep(0.5 + (int(open(sys.argv[1]).read()) - 100) / 2000)"
    tool = Tool(
        name="sleeper",
        n_cells=FEW + 1000,
        command=lambda cells, out: [sys.executable, "-c", code, str(cells)],
    )
    speed = measure(tool, files, n_starts=2)
    assert speed.tool == "sleeper" and speed.n_cells == FEW + 1000
    assert 0.5 <= speed.start_s < 5
    assert 100 < speed.cells_per_s < 20_000  # 2000, on a machine that may be busy
    assert speed.start_cpu_s < 0.5 <= speed.start_s  # sleeping costs no processor time


def test_a_command_that_fails_says_why():
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="no such thing"):
        run_measured([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("which", ["tiny_model", "tiny_bag"])
def test_a_table_and_one_line_of_json(corpus, request, capsys, monkeypatch, tmp_path, which):
    model = request.getfixturevalue(which)
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    monkeypatch.setattr(annotate_speed, "_RERANK", (5,))
    # It would hold for all tests after this one.
    monkeypatch.delattr("os.sched_setaffinity", raising=False)
    words = ["--model", str(model), "--shared", str(corpus.parent), "--no-celltypist"]
    words += ["--cells", "130", "--transformer-cells", "120", "--rerank-cells", "110"]
    monkeypatch.setattr(sys, "argv", ["annotate_speed", *words, "--starts", "1"])
    annotate_speed.main()
    printed = capsys.readouterr().out.splitlines()
    record = json.loads(printed[-1])
    names = {
        "tiny_model": ["tiny", "tiny --rerank 5"],
        "tiny_bag": ["tiny-bag"],
    }[which]
    assert [speed["tool"] for speed in record["speeds"]] == names
    assert [line[: len(name)] for line, name in zip(printed[2:], names, strict=False)] == names
    sizes = {"tiny_model": [120, 110], "tiny_bag": [130]}[which]
    assert [speed["n_cells"] for speed in record["speeds"]] == sizes
    assert all(np.isfinite(speed["cells_per_s"]) for speed in record["speeds"])
    assert record["benchmark"] == "annotate_speed" and record["machine"]["cores"] >= 1
