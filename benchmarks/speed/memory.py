"""Peak memory against the number of cells: `python -m benchmarks.speed.memory`.

Every measurement is a process of its own that reads a file of synthetic cells from disk. It compares
the peak resident size of tokenising and of `langcell embed` on few and on many cells. Imports are in
the functions, so that a process loads only what its task needs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

N_GENES = 2_000  # so that the dense file of 100,000 cells stays under 1 GB
MAX_GENES = 128
FORMATS = ("csr", "csc", "dense")
TASKS = ("tokenize", "embed")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Peak resident size in MB and wall time in seconds of one process."""

    peak_mb: float
    seconds: float


def write_cells(path: Path, n_cells: int, layout: str, seed: int) -> None:
    """Write an h5ad of human protein-coding genes, of which each cell expresses 200 to 600."""
    from anndata import AnnData

    from langcell.genes.gene_table import GeneTable

    table = GeneTable.bundled()
    genes = table.ensembl_ids[table.is_protein_coding][:N_GENES]
    rng = np.random.default_rng(seed)
    n_in_cell = rng.integers(200, 600, n_cells)
    indptr = np.concatenate([[0], np.cumsum(n_in_cell)])
    # Sorted genes with random gaps are distinct, at a hundredth of the cost of sampling.
    first, stride = rng.integers(0, N_GENES, n_cells), rng.choice([1, 3, 7, 9], n_cells)
    steps = np.arange(indptr[-1]) - np.repeat(indptr[:-1], n_in_cell)
    columns = (np.repeat(first, n_in_cell) + steps * np.repeat(stride, n_in_cell)) % N_GENES
    values = rng.geometric(0.4, len(columns)).astype(np.float32)
    counts = sparse.csr_matrix((values, columns.astype(np.int32), indptr), shape=(n_cells, N_GENES))
    counts.sort_indices()
    laid_out = {"csr": lambda: counts, "csc": counts.tocsc, "dense": counts.toarray}[layout]()
    adata = AnnData(X=laid_out)
    adata.obs_names = [f"cell-{number}" for number in range(n_cells)]
    adata.var_names = genes
    adata.write_h5ad(path)


def write_model(folder: Path) -> None:
    """Write a checkpoint of one layer with the genes of `write_cells`."""
    from langcell.genes.gene_table import GeneTable
    from langcell.genes.vocabulary import GeneVocabulary
    from langcell.model.langcell import LangCell
    from langcell.nn.config import CellEncoderConfig, LangCellConfig

    table = GeneTable.bundled()
    ids = tuple(table.ensembl_ids[table.is_protein_coding][:N_GENES])
    vocabulary = GeneVocabulary(ensembl_ids=ids, symbols=("",) * N_GENES, medians=np.ones(N_GENES))
    cell = CellEncoderConfig(
        vocab_size=vocabulary.size,
        hidden_size=32,
        n_layers=1,
        n_heads=2,
        intermediate_size=64,
        max_positions=MAX_GENES + 1,
    )
    LangCell(LangCellConfig(cell=cell, max_genes=MAX_GENES), vocabulary).save_pretrained(folder)


def peak_mb() -> float:
    """Return the peak resident size of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which a child process inherits.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found is not None, "the kernel reports no VmHWM"
        return int(found[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def run_task(task: str, cells: Path, model: Path) -> None:
    """Tokenise a file, or embed it with the command line, in this process."""
    if task == "embed":
        from langcell.cli import main as langcell

        out = cells.with_name("out.h5ad")
        sys.argv = ["langcell", "embed", "--h5ad", str(cells), "--out", str(out)]
        sys.argv += ["--model", str(model), "--threads", "1"]
        try:
            langcell()
        except SystemExit as stop:
            if stop.code:
                raise
        finally:
            out.unlink(missing_ok=True)
        return
    from langcell.counts.reader import open_counts
    from langcell.genes.vocabulary import GeneVocabulary
    from langcell.tokens.tokenizer import RankTokenizer

    tokenizer = RankTokenizer(GeneVocabulary.read(model / "genes.tsv"), max_genes=MAX_GENES)
    with open_counts(cells) as matrix:
        n_cells = sum(block.n_cells for block in tokenizer.tokenize(matrix))
    assert n_cells == matrix.n_cells, (n_cells, matrix.n_cells)


def measure(*arguments: str) -> Measurement:
    """Run this module in a new process and return its memory and time."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.memory", "--run", *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return Measurement(
        peak_mb=float(done.stdout.split()[-1]), seconds=time.perf_counter() - started
    )


def compare(folder: Path, sizes: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Measure every task on every layout; print and return one row each."""
    model = folder / "model"
    measure("model", str(model), "")
    rows = {}
    for layout in FORMATS:
        measured: dict[str, list[Measurement]] = {task: [] for task in TASKS}
        # The first, tiny file fills the cache of compiled code, as compiling needs memory.
        for n_cells in (500, *sizes):
            cells = folder / f"{layout}.h5ad"
            measure(f"write-{layout}", str(cells), str(n_cells))
            for task in TASKS:
                measured[task].append(measure(task, str(cells), str(model)))
            cells.unlink()
        for task, (_, few, many) in measured.items():
            ratio = many.peak_mb / few.peak_mb
            rows[f"{task}_{layout}"] = {
                "few_mb": round(few.peak_mb, 1),
                "many_mb": round(many.peak_mb, 1),
                "ratio": round(ratio, 3),
            }
            print(
                f"{task:<10}{layout:<7}{few.peak_mb:>10.0f} MB{many.peak_mb:>10.0f} MB"
                f"{ratio:>8.3f}{many.seconds:>9.1f} s",
                flush=True,
            )
    return rows


def main() -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs=2, default=(10_000, 100_000))
    parser.add_argument("--run", nargs=3, metavar=("TASK", "PATH", "OTHER"), help="one measurement")
    options = parser.parse_args()
    if options.run:
        task, path, other = options.run
        if task == "model":
            write_model(Path(path))
        elif task.startswith("write-"):
            write_cells(Path(path), int(other), task.removeprefix("write-"), seed=0)
        else:
            run_task(task, Path(path), Path(other))
        print(peak_mb())
        return
    few, many = options.cells
    print(f"{'task':<10}{'file':<7}{f'{few:,} cells':>13}{f'{many:,} cells':>14}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), (few, many))
    worst = max(row["ratio"] for row in rows.values())
    result = {"benchmark": "memory", "cells": [few, many], "worst_ratio": worst, "peaks": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
