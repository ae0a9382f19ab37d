"""Masking of gene tokens as in BERT."""

import numpy as np

from langcell.nn.losses import IGNORED

# BERT (Devlin et al. 2019, section 3.1): of the chosen tokens 80 % become the mask token, 10 % a
# random gene, 10 % stay.
_REPLACED_BY_MASK = 0.8
_REPLACED_BY_RANDOM = 0.1


def mask_tokens(
    input_ids: np.ndarray, share: float, rng: np.random.Generator, *, mask_id: int, n_genes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a share of the gene tokens.

    Parameters
    ----------
    input_ids
        CLS, gene tokens (2 to n_genes + 1) and padding, shape (n_cells, t).
    share
        Probability that a gene token is chosen; CLS and padding never are.
    rng
        Random generator.
    mask_id, n_genes
        From the vocabulary.

    Returns
    -------
    tuple of numpy.ndarray
        The masked tokens, and the true tokens at chosen positions with `IGNORED` elsewhere, both
        int64, shape (n_cells, t).
    """
    is_gene = (input_ids >= 2) & (input_ids < n_genes + 2)
    chosen = is_gene & (rng.random(input_ids.shape) < share)
    draw = rng.random(input_ids.shape)
    masked = np.where(chosen & (draw < _REPLACED_BY_MASK), mask_id, input_ids)
    swapped = (
        chosen & (draw >= _REPLACED_BY_MASK) & (draw < _REPLACED_BY_MASK + _REPLACED_BY_RANDOM)
    )
    masked = np.where(swapped, rng.integers(2, n_genes + 2, input_ids.shape), masked)
    return masked, np.where(chosen, input_ids, IGNORED)
