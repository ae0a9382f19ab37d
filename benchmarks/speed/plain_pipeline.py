"""The released way from counts to a dataset of tokens, cell by cell: what corpora are held against."""

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

_WRITTEN_AT_ONCE = 1000  # cells, as the library does

Cell = dict[str, Any]


def run_plainly(
    source: Path, vocabulary: GeneVocabulary, target: Path, *, n_cells: int, max_genes: int
) -> None:
    """Turn the first cells of an h5ad into a dataset.

    As the tokenizers of Geneformer and LangCell do: a list of tokens for each cell, from them a
    dataset, and that passed over twice, to cut each cell and to add its length. Without the library
    `datasets` pyarrow does the same work on cells, and none of the library's own.
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
    """Return what makes the dataset, with its version."""
    name = "datasets" if find_spec("datasets") else "pyarrow"
    return f"{name} {version(name)}"


def rank_plainly(source: Path, vocabulary: GeneVocabulary, n_cells: int) -> list[list[int]]:
    """Rank the genes of the first cells: all counts dense and double, one argsort a cell."""
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
    """Pass over a table as the library does: each cell as Python objects, and back."""
    return pa.Table.from_batches(
        [
            pa.RecordBatch.from_pylist([function(cell) for cell in batch.to_pylist()])
            for batch in table.to_batches(_WRITTEN_AT_ONCE)
        ]
    )
