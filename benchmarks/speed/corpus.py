"""Speed of building shards from h5ad, against the reference pipeline: `python -m benchmarks.speed.corpus`.

Each worker imports this module, so simulation and reference pipeline are imported where used.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from langcell.runtime.threads import available_threads, set_threads
from langcell.tokens.token_corpus import TokenCorpus
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions

_PLAIN_CELLS = 2000


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cells, wall time, and CPU time with child processes."""

    n_cells: int
    seconds: float
    cpu_seconds: float


def cost(work: Callable[[], int]) -> Cost:
    """Measure a function that returns its number of cells, after earlier writes are flushed."""
    os.sync()

    def processors() -> float:
        usages = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    clock, used = time.perf_counter(), processors()
    n_cells = work()
    return Cost(
        n_cells=n_cells,
        seconds=time.perf_counter() - clock,
        cpu_seconds=processors() - used,
    )


def least(work: Callable[[int], int], n_repeats: int) -> Cost:
    """Repeat some work and return the lowest cost, as other load only slows it down.

    The work gets the number of the repeat, to write to another folder.
    """
    costs = [cost(partial(work, number)) for number in range(n_repeats)]
    return Cost(
        n_cells=costs[0].n_cells,
        seconds=min(each.seconds for each in costs),
        cpu_seconds=min(each.cpu_seconds for each in costs),
    )


def build(inputs: Path, target: Path, options: argparse.Namespace, *, n_workers: int) -> Cost:
    """Build a corpus repeatedly and return the cost."""
    # Few cells for the medians, as for each input of a large corpus.
    settings = BuildOptions(max_genes=options.max_genes, median_cells=1)

    def work(number: int) -> int:
        folder = target / str(number)
        manifest = build_corpus(folder, [str(inputs)], settings, n_workers=n_workers)
        assert manifest is not None
        return manifest.n_cells

    return least(work, options.repeats)


def run_reference(source: Path, corpus: Path, options: argparse.Namespace) -> Cost:
    """Return the cost of the reference pipeline for some cells of a corpus."""
    from benchmarks.speed.plain_pipeline import run_plainly

    vocabulary = TokenCorpus(corpus).vocabulary

    def work(number: int) -> int:
        target = corpus.with_name(f"dataset-{number}")
        run_plainly(source, vocabulary, target, n_cells=_PLAIN_CELLS, max_genes=options.max_genes)
        return _PLAIN_CELLS

    return least(work, options.repeats)


def measure(folder: Path, storage: str, options: argparse.Namespace) -> dict[str, float]:
    """Build a corpus of files of one storage format, and run the reference pipeline."""
    from benchmarks.data.simulated_cells import write_cells

    inputs = folder / "inputs"
    inputs.mkdir()
    for number in range(options.files):
        write_cells(
            inputs / f"{number}.h5ad",
            options.cells // options.files,
            n_expressed=options.expressed,
            compression=storage,
            seed=number,
        )
    set_threads(1)
    alone = build(inputs, folder / "alone", options, n_workers=1)
    set_threads()
    together = build(inputs, folder / "together", options, n_workers=options.workers)
    plain = run_reference(inputs / "0.h5ad", folder / "alone" / "0", options)
    rates = [each.n_cells / each.cpu_seconds for each in (alone, plain)]
    return {
        "cells_per_s": round(together.n_cells / together.seconds),
        "cells_per_cpu_s": round(rates[0]),
        "plain_cells_per_cpu_s": round(rates[1]),
        "times_plain_per_cpu": round(rates[0] / rates[1], 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print a table, and one JSON line."""
    from benchmarks.data.simulated_cells import write_cells
    from benchmarks.speed.plain_pipeline import storing_library

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=256_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--expressed", type=int, default=2_000)
    parser.add_argument("--max-genes", type=int, default=2_048)
    parser.add_argument("--workers", type=int, default=available_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--storages", nargs="+", default=["none", "lzf", "gzip"])
    options = parser.parse_args(arguments)
    print(
        f"simulated h5ad, {options.cells:,} cells in {options.files} files, {options.expressed} genes "
        f"a cell, {options.max_genes} kept, medians of 1,000 cells a file, {options.workers} workers; "
        f"best of {options.repeats}"
    )
    head = ("compression", "cells/s", "cells/CPU-s", "plain way/CPU-s", "times")
    print("".join(f"{each:>16}" for each in head))
    found = {}
    with tempfile.TemporaryDirectory() as name:
        write_cells(Path(name) / "x.h5ad", 500, n_expressed=500, compression="none", seed=0)
        build(Path(name) / "x.h5ad", Path(name) / "x", options, n_workers=1)  # compiles, too
        for storage in options.storages:
            with tempfile.TemporaryDirectory() as folder:
                found[storage] = measure(Path(folder), storage, options)
            print(
                "".join(f"{each:>16}" for each in (storage, *found[storage].values())), flush=True
            )
    print(
        "cells/s: all workers, their start included; cells/CPU-s: one process of one thread that has "
        f"started, which free cores multiply; the plain way ends in a dataset of {storing_library()}"
    )
    print(json.dumps({"benchmark": "corpus", "cells": options.cells, **found}))


if __name__ == "__main__":
    main()
