"""Masking of gene tokens."""

import numpy as np

from langcell.nn.losses import IGNORED
from pretrain.cells.masking import mask_tokens

MASK, N_GENES, CLS, PAD = 1, 500, 502, 0


def masked_cells(share: float = 0.15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(2, N_GENES + 2, (400, 101))
    ids[:, 0] = CLS
    ids[:, 80:] = PAD
    masked, labels = mask_tokens(ids, share, rng, mask_id=MASK, n_genes=N_GENES)
    return ids, masked, labels


def test_cls_and_padding_are_never_chosen() -> None:
    ids, masked, labels = masked_cells(share=0.99)
    special = (ids == CLS) | (ids == PAD)
    assert (masked[special] == ids[special]).all()
    assert (labels[special] == IGNORED).all()


def test_labels_are_the_true_tokens_and_the_rest_is_untouched() -> None:
    ids, masked, labels = masked_cells()
    chosen = labels != IGNORED
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()


def test_shares_are_those_of_bert() -> None:
    ids, masked, labels = masked_cells()
    chosen = labels != IGNORED
    n_genes = (ids[:, 1:80]).size
    # Tolerances are four standard errors of the shares at these sample sizes.
    assert abs(chosen.sum() / n_genes - 0.15) < 4 * np.sqrt(0.15 * 0.85 / n_genes)
    error = 4 * 0.5 / np.sqrt(chosen.sum())
    assert abs((masked[chosen] == MASK).mean() - 0.8) < error
    assert abs((masked[chosen] == ids[chosen]).mean() - 0.1) < error
    others = masked[chosen & (masked != MASK)]
    assert others.min() >= 2
    assert others.max() < N_GENES + 2


def test_nothing_is_masked_at_share_zero() -> None:
    ids, masked, labels = masked_cells(share=0)
    assert (masked == ids).all()
    assert (labels == IGNORED).all()
