"""Cells per second from h5ad files to shards, beside the plain way: `python -m benchmarks.corpus`."""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import numpy as np
import pyarrow as pa

from benchmarks.corpus_data import write_cells
from langcell.counts import open_counts
from langcell.shards import TokenCorpus
from langcell.threads import available_threads
from langcell.tokenizer import RankTokenizer
from pretrain.corpus_build import build_corpus
from pretrain.corpus_options import BuildOptions

_PLAIN_CELLS = 2000


def tokenize_plainly(source: Path, corpus: TokenCorpus, target: Path) -> int:
    """Make a dataset of tokens cell by cell, as the released pipelines do; return its cells.

    All counts in memory, dense and double, one argsort a cell, lists of Python integers into an
    arrow table.
    """
    tokenizer = RankTokenizer(corpus.vocabulary, max_genes=corpus.manifest.max_genes)
    with open_counts(source) as matrix:
        genes = tokenizer.column_genes(matrix.resolution)
        block = matrix.read(0, min(matrix.n_cells, _PLAIN_CELLS))
    known = np.flatnonzero(genes.tokens >= 0)
    dense = block.counts.astype(np.float64)[:, known].toarray()
    values = dense / block.totals[:, None] * 1e4 / genes.medians[known]
    cells = []
    for row in values:
        expressed = np.flatnonzero(row)
        order = np.argsort(-row[expressed], kind="stable")
        cells.append(genes.tokens[known][expressed[order]][: corpus.manifest.max_genes].tolist())
    table = pa.table({"input_ids": cells, "length": [len(cell) for cell in cells]})
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return len(cells)


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Return cells per second, by the clock and by processor time of this process and its children."""

    def processor() -> float:
        usages = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    clock, used = time.perf_counter(), processor()
    n_cells = work()
    return n_cells / (time.perf_counter() - clock), n_cells / (processor() - used)


def measure(folder: Path, storage: str, options: argparse.Namespace) -> dict[str, float]:
    """Build a corpus of files of one storage, and do the same plainly."""
    inputs = folder / storage
    inputs.mkdir()
    for number in range(options.files):
        write_cells(
            inputs / f"{number}.h5ad",
            options.cells // options.files,
            n_expressed=options.expressed,
            compression=storage,
            seed=number,
        )
    target = folder / f"{storage}-corpus"
    settings = BuildOptions(max_genes=options.max_genes, median_cells=10_000)

    def build() -> int:
        manifest = build_corpus(target, [str(inputs)], settings, n_workers=options.workers)
        assert manifest is not None
        return manifest.n_cells

    ours = timed(build)
    corpus = TokenCorpus(target)
    plain = timed(lambda: tokenize_plainly(inputs / "0.h5ad", corpus, folder / f"{storage}.arrow"))
    shutil.rmtree(inputs)
    return {
        "cells_per_s": round(ours[0]),
        "cells_per_cpu_s": round(ours[1]),
        "plain_cells_per_cpu_s": round(plain[1]),
        "times_plain_per_cpu": round(ours[1] / plain[1], 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--expressed", type=int, default=2_000)
    parser.add_argument("--max-genes", type=int, default=2_048)
    parser.add_argument("--workers", type=int, default=available_threads())
    parser.add_argument("--storages", nargs="+", default=["none", "lzf", "gzip"])
    options = parser.parse_args(arguments)
    print(
        f"made-up h5ad, {options.cells:,} cells in {options.files} files, {options.expressed} genes "
        f"a cell, {options.max_genes} kept, {options.workers} workers; starting them counts"
    )
    print(
        f"{'compression':<14}{'cells/s':>10}{'cells/CPU-s':>14}{'plain way/CPU-s':>18}{'times':>8}"
    )
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for storage in options.storages:
            row = found[storage] = measure(Path(name), storage, options)
            print(
                f"{storage:<14}{row['cells_per_s']:>10,}{row['cells_per_cpu_s']:>14,}"
                f"{row['plain_cells_per_cpu_s']:>18,}{row['times_plain_per_cpu']:>8}"
            )
    print(json.dumps({"benchmark": "corpus", "cells": options.cells, **found}))


if __name__ == "__main__":
    main()
