"""Initialise gene embeddings by SVD, so that co-expressed genes start close to each other."""

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from langcell.genes.vocabulary import GeneVocabulary
from pretrain.cells.mean_expression import TypeMeans


def svd_gene_embeddings(
    means: TypeMeans, vocabulary: GeneVocabulary, *, width: int, std: float, seed: int
) -> Tensor:
    """Return gene embeddings from a truncated SVD of the mean expression per type and source.

    A run on a few CPU cores sees each gene too rarely to learn its co-expression from scratch. All
    types have the same weight, genes are centred and scaled, and a gene that a source did not
    measure gets its mean there.

    Returns
    -------
    Tensor
        float32, standard deviation `std`, shape (n_genes, width), in the vocabulary's token order.
    """
    n = np.maximum(means.measured.sum(axis=0), 1)
    centre = means.values.sum(axis=0) / n
    values = np.where(means.measured, means.values - centre, 0)  # (n_groups, n_genes)
    # The floor keeps rarely expressed genes from dominating through a tiny standard deviation.
    values /= np.sqrt(np.square(values).sum(axis=0) / n) + 0.1
    sizes = np.bincount(means.term)[means.term]
    values /= np.sqrt(sizes)[:, None]
    rank = min(width, *(side - 1 for side in values.shape))
    _, scales, genes = randomized_svd(values.astype(np.float32), rank, random_state=seed)
    # The square root keeps the first components from dominating the others.
    found = genes.T * np.sqrt(scales)  # (n_columns, rank)
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(scale=found.std(), size=(vocabulary.n_genes, width))
    tokens = vocabulary.token_ids(means.ensembl_ids)
    known = tokens >= 0
    embeddings[tokens[known] - 2, :rank] = found[known]
    embeddings *= std / embeddings.std()
    return torch.from_numpy(embeddings.astype(np.float32))
