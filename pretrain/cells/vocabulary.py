"""Choose the genes that become tokens, and estimate their medians."""

import numpy as np
from scipy import sparse

from langcell.genes.gene_table import GeneTable
from langcell.genes.vocabulary import GeneVocabulary
from pretrain.cells.memory_corpus import Corpus
from pretrain.cells.sampling import CellSampler
from pretrain.recipe.cell_config import Augmentation, Balance, Vocabulary

_DRAW_BATCH = 1000


def build_vocabulary(
    corpus: Corpus,
    settings: Vocabulary,
    augmentation: Augmentation,
    balance: Balance,
    *,
    seed: int,
) -> GeneVocabulary:
    """Choose the genes that enough sources measure, and estimate their medians.

    The median of a gene is taken over its nonzero counts per 10,000 in cells drawn as in training,
    but without gene subsets: profiles have no counts of their own, and balanced draws keep one
    large study from dominating the medians.

    Raises
    ------
    ValueError
        If no gene is measured often enough.
    """
    whole = augmentation.model_copy(update={"subset": 0.0})
    sampler = CellSampler(corpus, whole, balance, seed=seed)
    medians = _nonzero_medians(sampler, settings)
    kept = (corpus.measured.sum(axis=0) >= settings.min_sources) & np.isfinite(medians)
    if not kept.any():
        raise ValueError(
            f"no gene is measured in vocabulary.min_sources={settings.min_sources} files and expressed "
            f"in vocabulary.min_observations={settings.min_observations} of {settings.n_draws} draws; "
            "lower either"
        )
    # The minimum is one count in the deepest cell: lower medians come only from sources without
    # counts, and would rank the gene first in every cell that has one count of it.
    medians = np.maximum(medians, 1e4 / augmentation.depth[1])
    ensembl_ids = tuple(np.array(corpus.ensembl_ids, dtype=object)[kept])
    table = GeneTable.bundled()
    return GeneVocabulary(
        ensembl_ids=ensembl_ids,
        symbols=tuple(table.symbol(ensembl_id) for ensembl_id in ensembl_ids),
        medians=medians[kept],
    )


def _nonzero_medians(sampler: CellSampler, settings: Vocabulary) -> np.ndarray:
    """Return the median of nonzero counts per 10,000 of each gene; NaN if too few are nonzero."""
    blocks = []
    for step, start in enumerate(range(0, settings.n_draws, _DRAW_BATCH)):
        n_cells = min(_DRAW_BATCH, settings.n_draws - start)
        counts = sampler.draw(sampler.choose(step, n_cells), step).counts
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        scale = np.repeat(1e4 / np.maximum(totals, 1e-12), np.diff(counts.indptr))
        counts.data *= scale.astype(np.float32)
        blocks.append(counts)
    columns = sparse.vstack(blocks).tocsc()
    medians = np.full(columns.shape[1], np.nan)
    for gene in range(columns.shape[1]):
        values = columns.data[columns.indptr[gene] : columns.indptr[gene + 1]]
        if len(values) >= settings.min_observations:
            medians[gene] = np.median(values)
    return medians
