"""What the benchmark of corpora holds them against, and the table that it prints."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.data.simulated_cells import draw_counts, write_cells
from benchmarks.speed import corpus
from benchmarks.speed.plain_pipeline import rank_plainly, run_plainly
from langcell.tokens.token_corpus import TokenCorpus
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions


def test_the_plain_way_finds_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, n_cells, max_genes = tmp_path / "x.h5ad", 60, 90
    write_cells(source, n_cells, n_expressed=100, compression="none", seed=0)
    build_corpus(
        tmp_path / "corpus",
        [str(source)],
        BuildOptions(max_genes=max_genes, median_cells=1, min_genes=1),
    )
    built = TokenCorpus(tmp_path / "corpus")
    plain = rank_plainly(source, built.vocabulary, n_cells)
    cells = built.shard(0)
    for place, row in enumerate(cells.columns["row"]):
        assert cells.cell(place).tolist() == plain[row][:max_genes]
    target = tmp_path / "plain.arrow"
    monkeypatch.setitem(sys.modules, "datasets", None)  # where it is installed, too
    run_plainly(source, built.vocabulary, target, n_cells=n_cells, max_genes=max_genes)
    with pa.memory_map(str(target)) as file:
        table = pa.ipc.open_stream(file).read_all()
    assert table.column("input_ids").to_pylist() == [each[:max_genes] for each in plain]
    assert table.column("length").to_pylist() == [min(max_genes, len(each)) for each in plain]


def test_made_up_cells_express_as_many_genes_as_asked() -> None:
    counts = draw_counts(300, 700, seed=1)
    assert 650 < counts.nnz / 300 < 750
    assert (counts.data == 1).mean() > 0.5


def test_a_table_and_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--cells 2000 --files 2 --expressed 200 --workers 1 --storages lzf"
    corpus.main(words.split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "compression" and lines[2].split()[0] == "lzf"
    assert json.loads(lines[-1])["lzf"].keys() >= {"cells_per_s", "times_plain_per_cpu"}
