"""The genes that may become tokens."""

from functools import cache

import numpy as np

from langcell.genes.gene_table import GeneTable

# Receptor segments, which distinguish lymphocytes, have biotypes of their own.
_BIOTYPES = ("protein_coding", "IG_C_gene", "IG_V_gene", "TR_C_gene", "TR_V_gene")


@cache
def token_genes() -> np.ndarray:
    """Return the Ensembl ids of all genes that may become tokens, object, shape (n_genes,)."""
    table = GeneTable.bundled()
    return table.ensembl_ids[np.isin(table.biotypes, _BIOTYPES)]


def gene_columns(ensembl_ids: np.ndarray) -> np.ndarray:
    """Return the index of each id in `token_genes`, -1 if missing, int64."""
    place = _places()
    return np.array([place.get(each, -1) for each in ensembl_ids], dtype=np.int64)


@cache
def _places() -> dict[str, int]:
    return {ensembl_id: column for column, ensembl_id in enumerate(token_genes())}
