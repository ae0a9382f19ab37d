"""Mean expression of each cell type in each source."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pretrain.cells.memory_corpus import Corpus


@dataclass(frozen=True, kw_only=True, eq=False)
class TypeMeans:
    """Mean expression by type and source.

    Attributes
    ----------
    values
        Mean log1p counts per 10,000, float32, shape (n_groups, n_genes); 0 where the gene was not
        measured. A group is a cell type in a source.
    measured
        True where the gene was measured, shape (n_groups, n_genes).
    term
        Type of each group, shape (n_groups,).
    ensembl_ids
        Gene of each column.
    """

    values: np.ndarray
    measured: np.ndarray
    term: np.ndarray
    ensembl_ids: tuple[str, ...]


def type_means(corpus: Corpus) -> TypeMeans:
    """Average log expression over the examples of each type in each source."""
    groups, group = np.unique(
        corpus.term.astype(np.int64) * len(corpus.sources) + corpus.source, return_inverse=True
    )
    totals = np.asarray(corpus.values.sum(axis=1, dtype=np.float64)).ravel()
    logs = corpus.values.copy()
    logs.data /= np.repeat(np.maximum(totals, 1e-12) / 1e4, np.diff(logs.indptr)).astype(np.float32)
    np.log1p(logs.data, out=logs.data)
    sizes = np.bincount(group)
    average = sparse.csr_matrix(
        ((1 / sizes[group]).astype(np.float32), (group, np.arange(corpus.n_examples)))
    )
    return TypeMeans(
        # There are hundreds of types x sources, so this product may be dense.
        values=(average @ logs).toarray(),
        measured=corpus.measured[groups % len(corpus.sources)],
        term=groups // len(corpus.sources),
        ensembl_ids=corpus.ensembl_ids,
    )


def gene_variability(means: TypeMeans) -> np.ndarray:
    """Return the standard deviation of each gene over types and sources, shape (n_genes,)."""
    n = np.maximum(means.measured.sum(axis=0), 1)
    centre = means.values.sum(axis=0) / n
    squares = np.square(means.values).sum(axis=0) / n
    return np.sqrt(np.maximum(squares - np.square(centre), 0))
