"""Reference pipeline from counts to a dataset of tokens, as released with Geneformer and LangCell."""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from langcell.counts.reader import open_counts
from langcell.genes.vocabulary import GeneVocabulary
from langcell.tokens.tokenizer import RankTokenizer

_WRITTEN_AT_ONCE = 1000  # cells, as in the library

Cell = dict[str, Any]


def run_plainly(
    source: Path, vocabulary: GeneVocabulary, target: Path, *, n_cells: int, max_genes: int
) -> None:
    """Convert the first cells of an h5ad to a dataset.

    As in the tokenizers of Geneformer and LangCell: a list of tokens per cell, a dataset from these,
    and two passes over it, to truncate cells and to add their lengths. Without the library `datasets`
    pyarrow does the same, without the library's overhead.
    """
    cells = {"input_ids": rank_plainly(source, vocabulary, n_cells)}

    def cut(cell: Cell) -> Cell:
        return {**cell, "input_ids": cell["input_ids"][:max_genes]}

    def measure(cell: Cell) -> Cell:
        return {**cell, "length": len(cell["input_ids"])}

    try:
        import datasets
    except ImportError:
        table = _mapped(_mapped(pa.table(cells), cut), measure)
        with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        return
    datasets.disable_progress_bars()
    dataset = datasets.Dataset.from_dict(cells).map(cut).map(measure)
    dataset.save_to_disk(str(target))


def storing_library() -> str:
    """Return the library that writes the dataset, with its version."""
    name = "datasets" if find_spec("datasets") else "pyarrow"
    return f"{name} {version(name)}"


def rank_plainly(source: Path, vocabulary: GeneVocabulary, n_cells: int) -> list[list[int]]:
    """Rank the genes of the first cells: dense float64 counts, one argsort per cell."""
    tokenizer = RankTokenizer(vocabulary, max_genes=vocabulary.n_genes)
    with open_counts(source) as matrix:
        genes = tokenizer.column_genes(matrix.resolution)
        block = matrix.read(0, min(matrix.n_cells, n_cells))
    known = np.flatnonzero(genes.tokens >= 0)
    dense = block.counts.astype(np.float64)[:, known].toarray()
    values = dense / block.totals[:, None] * 1e4 / genes.medians[known]
    cells = []
    for row in values:
        expressed = np.flatnonzero(row)
        order = np.argsort(-row[expressed], kind="stable")
        cells.append(genes.tokens[known][expressed[order]].tolist())
    return cells


def _mapped(table: pa.Table, function: Callable[[Cell], Cell]) -> pa.Table:
    """Map a function over a table as the library does, via Python objects."""
    return pa.Table.from_batches(
        [
            pa.RecordBatch.from_pylist([function(cell) for cell in batch.to_pylist()])
            for batch in table.to_batches(_WRITTEN_AT_ONCE)
        ]
    )
