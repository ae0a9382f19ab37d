"""A million cells on a laptop: `python -m benchmarks.speed.atlas`.

Runs `langcell zeroshot` on a file of real cells of the corpus, repeated and downsampled so that no two
are equal: once uninterrupted, once killed half-way and resumed, once with another batch size. Prints
cells per second and the peak resident size of each process, and whether all results are the same: the
file of the resumed run byte by byte, the table of the third run value by value.
"""

import argparse
import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from benchmarks.data.arguments import add_model, make_parser
from benchmarks.data.repeated_cells import RealCells, read_real_cells
from benchmarks.speed.process_speed import machine
from langcell.output.h5ad_writer import H5adWriter
from zeroshot.results.annotations import Slots
from zeroshot.results.partial_results import partial_folder

_WRITTEN_TOGETHER = 10_000
_LIMIT_MB = 2_500  # limit of the peak resident size
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Run:
    """Wall time, peak resident size and whether one process was killed."""

    name: str
    seconds: float
    peak_mb: float
    killed: bool


def write_atlas(cells: RealCells, path: Path, n_cells: int, *, seed: int) -> None:
    """Write an h5ad of cells drawn with replacement, with counts downsampled by half."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(index=[f"cell-{number}" for number in range(n_cells)])
    AnnData(obs=obs, var=pd.DataFrame(index=list(cells.ensembl_ids))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        writer = H5adWriter(file)
        for first in range(0, n_cells, _WRITTEN_TOGETHER):
            n_rows = min(_WRITTEN_TOGETHER, n_cells - first)
            drawn = cells.counts[rng.integers(0, cells.counts.shape[0], n_rows)]
            thin = rng.binomial(drawn.data.astype(np.int64), 0.5).astype(np.float32)
            rows = sparse.csr_matrix((thin, drawn.indices, drawn.indptr), drawn.shape)
            rows.eliminate_zeros()
            rows.sort_indices()
            writer.append_csr("X", rows)


def annotate(name: str, words: Sequence[str], folder: Path, *, kill_at: int = 0) -> Run:
    """Run `langcell zeroshot` in a folder; kill it after `kill_at` bytes of results, if set."""
    command = [sys.executable, "-m", "langcell", "zeroshot", *words]
    partial = partial_folder(folder / words[words.index("--out") + 1])
    started, peak = time.perf_counter(), 0.0
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
        while process.poll() is None:
            peak = max(peak, _peak_mb(process.pid))
            stored = sum(each.stat().st_size for each in partial.glob("cells-*.bin"))
            if kill_at and stored > kill_at:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(_POLL_S)
    killed = process.returncode == -signal.SIGKILL
    if process.returncode and not killed:
        raise RuntimeError(f"{name} failed: {log.read_text(encoding='utf-8')[-500:]}")
    return Run(name=name, seconds=time.perf_counter() - started, peak_mb=round(peak), killed=killed)


def _peak_mb(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_calls(named: Path, table: Path) -> bool:
    """Tell whether a table equals obs of an annotated h5ad exactly."""
    with h5py.File(named) as file:
        obs = {path.split("/")[1] for path in Slots().annotated_paths if path.startswith("obs/")}
        columns = {name: np.asarray(read_elem(file[f"obs/{name}"])) for name in obs}
    found = pd.read_parquet(table)
    return all((found[name].to_numpy() == columns[name]).all() for name in sorted(obs))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, threads=2)
    add_model(parser)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the files, some 12 GB; default: temporary")
    return parser.parse_args()


def main() -> None:
    """Print a row per process, whether results are equal, and one JSON line."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        whole, stopped = Path(name) / "whole", Path(name) / "stopped"
        cells = Path(name) / "atlas.h5ad"
        try:
            write_atlas(
                read_real_cells(arguments.shared / "corpus"),
                cells,
                arguments.cells,
                seed=arguments.seed,
            )
        except FileNotFoundError as error:
            sys.exit(str(error))
        size_gb = cells.stat().st_size / 1e9
        before = machine()
        print(f"{before['processor']}, {arguments.threads} threads; {size_gb:.1f} GB of counts")
        words = ["--h5ad", str(cells), "--model", arguments.model]
        words += ["--threads", str(arguments.threads), "--out"]
        for folder in (whole, stopped):
            folder.mkdir()
        runs = [annotate("whole", [*words, "named.h5ad"], whole)]
        half = int((whole / "named.h5ad").stat().st_size - cells.stat().st_size) // 2
        runs.append(annotate("killed", [*words, "named.h5ad"], stopped, kill_at=half))
        runs.append(annotate("resumed", [*words, "named.h5ad"], stopped))
        table = "named.parquet"
        runs.append(annotate("small batches", [*words, table, "--batch-size", "64"], whole))
        for run in runs:
            rate = "" if run.killed else f"{arguments.cells / run.seconds:>9,.0f} cells/s"
            print(f"{run.name:<16}{run.seconds:>8.0f} s{run.peak_mb:>9,.0f} MB{rate}")
        resumed_same = digest(whole / "named.h5ad") == digest(stopped / "named.h5ad")
        batches_same = same_calls(whole / "named.h5ad", whole / table)
    peak = max(run.peak_mb for run in runs)
    print(f"resumed file is the same: {resumed_same}; calls in small batches: {batches_same}")
    print(f"highest peak {peak:,.0f} MB, limit {_LIMIT_MB:,} MB")
    record = {
        "benchmark": "atlas",
        "machine": before,
        "cells": arguments.cells,
        "runs": [asdict(run) for run in runs],
        "resumed_same": resumed_same,
        "batches_same": batches_same,
    }
    print(json.dumps(record))
    if peak > _LIMIT_MB or not (resumed_same and batches_same):
        sys.exit("the limit is passed, or results differ")


if __name__ == "__main__":
    main()
