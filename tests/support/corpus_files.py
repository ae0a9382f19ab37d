"""Small inputs of corpora for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from langcell.tokens.token_corpus import TokenCorpus

TERMS = ("CL:0000236", "CL:0000084", "CL:0000540")


def make_study(genes: Sequence[str], n_cells: int, *, seed: int, **obs: Any) -> anndata.AnnData:
    """Counts of three types, each with 60 genes of its own, and columns of obs."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2.0, 0.6, (n_cells, len(genes)))
    types = np.arange(n_cells) % len(TERMS)
    for row, each in enumerate(types):
        rates[row, 60 * each : 60 * (each + 1)] *= 6
    table = pd.DataFrame(
        {
            "cell_type_ontology_term_id": np.array(TERMS, dtype=object)[types],
            "study": f"study {seed}",
            "donor_id": [f"d{row % 2}" for row in range(n_cells)],
            "tissue_ontology_term_id": "UBERON:0002048",
            **obs,
        },
        index=[f"cell{row}" for row in range(n_cells)],
    )
    counts = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    return anndata.AnnData(counts, table, pd.DataFrame(index=list(genes)))


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file of a corpus."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def cells_by_origin(corpus: TokenCorpus) -> dict[tuple[str, int], np.ndarray]:
    """Tokens of each cell by the file and row that it came from."""
    names = corpus.manifest.categories["file"]
    found = {}
    for number in range(len(corpus.manifest.shards)):
        cells = corpus.shard(number)
        for row in range(cells.n_cells):
            origin = (names[cells.columns["file"][row]], int(cells.columns["row"][row]))
            assert origin not in found
            found[origin] = np.asarray(cells.cell(row))
    return found
