"""Speed of the tokenizer against a numpy loop: `python -m benchmarks.speed.tokenizer`."""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from scipy import sparse

from benchmarks.data.simulated_cells import N_GENES
from langcell.genes.vocabulary import GeneVocabulary
from langcell.runtime.threads import thread_count
from langcell.tokens.tokenizer import ColumnGenes, RankTokenizer

SHARE_UNKNOWN = 0.075


def make_cells(n_cells: int, n_expressed: int, seed: int) -> sparse.csr_matrix:
    """Simulate sparse counts with about `n_expressed` genes per cell, float32."""
    rng = np.random.default_rng(seed)
    n_in_cell = rng.integers(int(0.6 * n_expressed), int(1.4 * n_expressed), n_cells)
    indices = np.concatenate(
        [np.sort(rng.choice(N_GENES, n, replace=False)) for n in n_in_cell]
    ).astype(np.int32)
    counts = rng.geometric(0.4, len(indices)).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(n_in_cell)])
    return sparse.csr_matrix((counts, indices, indptr), shape=(n_cells, N_GENES))


def make_genes(seed: int) -> ColumnGenes:
    """Return columns with shuffled tokens, medians, and some unknown genes."""
    rng = np.random.default_rng(seed)
    tokens = rng.permutation(N_GENES).astype(np.int64) + 2
    tokens[rng.random(N_GENES) < SHARE_UNKNOWN] = -1
    return ColumnGenes(tokens=tokens, medians=rng.lognormal(1.0, 0.7, N_GENES), first_columns=None)


def tokenize_plainly(
    counts: sparse.csr_matrix, genes: ColumnGenes, totals: np.ndarray, max_genes: int
) -> list[np.ndarray]:
    """Rank one cell at a time with numpy, by value and then token id."""
    cells = []
    for row, total in enumerate(totals):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        columns, tokens = counts.indices[part], genes.tokens[counts.indices[part]]
        known = tokens >= 0
        values = counts.data[part][known].astype(np.float64) / total * 1e4
        values /= genes.medians[columns[known]]
        cells.append(tokens[known][np.lexsort((tokens[known], -values))][:max_genes])
    return cells


def rate(run: Callable[[], object], n_cells: int, n_rounds: int) -> tuple[float, float]:
    """Return the median cells per second of wall time and of CPU time."""
    by_clock, by_processor = [], []
    for _ in range(n_rounds):
        clock, processor = time.perf_counter(), time.process_time()
        run()
        by_clock.append(n_cells / (time.perf_counter() - clock))
        by_processor.append(n_cells / (time.process_time() - processor))
    return float(np.median(by_clock)), float(np.median(by_processor))


def main() -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--expressed", type=int, default=2_000)
    parser.add_argument("--max-genes", type=int, default=2_048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    counts, genes = make_cells(options.cells, options.expressed, seed=0), make_genes(seed=1)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    ids = tuple(f"ENSG{number:011d}" for number in range(N_GENES))
    vocabulary = GeneVocabulary(ensembl_ids=ids, symbols=ids, medians=np.ones(N_GENES))
    tokenizer = RankTokenizer(vocabulary, max_genes=options.max_genes)

    few = counts[:2_000]
    block = tokenizer.tokenize_csr(few, genes, totals[:2_000])  # compiles, too
    plain = tokenize_plainly(few, genes, totals[:2_000], options.max_genes)
    n_same = sum(np.array_equal(block.cell(row), cell) for row, cell in enumerate(plain))
    kernel = rate(
        lambda: tokenizer.tokenize_csr(counts, genes, totals), options.cells, options.rounds
    )
    numpy = rate(lambda: tokenize_plainly(few, genes, totals[:2_000], options.max_genes), 2_000, 3)
    n_threads = thread_count()
    print(f"{options.expressed} genes a cell, {options.max_genes} kept, {n_threads} threads")
    print(f"{'':<24}{'cells/s':>12}{'cells/CPU-s':>14}")
    print(f"{'compiled kernel':<24}{kernel[0]:>12,.0f}{kernel[1]:>14,.0f}")
    print(f"{'numpy, cell by cell':<24}{numpy[0]:>12,.0f}{numpy[1]:>14,.0f}")
    print(f"cells whose order is the same: {n_same} of {len(plain)}")
    result = {
        "benchmark": "tokenizer",
        "max_genes": options.max_genes,
        "threads": n_threads,
        "kernel_cells_per_s": round(kernel[0]),
        "kernel_cells_per_cpu_s": round(kernel[1]),
        "numpy_cells_per_s": round(numpy[0]),
        "same_order": n_same == len(plain),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
