"""What a lower level of confidence would bring."""

import numpy as np

_LEVELS = (0.7, 0.5)
_WORTH_SAYING = 0.05  # share of the cells


def finer_words(leaf_confidence: np.ndarray, level: float) -> str:
    """Say how many cells are named in full, and how many would be at lower levels; '' for no more.

    Parameters
    ----------
    leaf_confidence: calibrated probability of the best single type, shape (n_cells,)
    level: least confidence of a call

    Examples
    --------
    >>> finer_words(np.array([0.95, 0.8, 0.6, 0.2]), 0.9)
    '25% of the cells are named in full; at --confidence 0.7 50%, at --confidence 0.5 75% would be'
    """
    now = float(np.mean(leaf_confidence >= level))
    shares = {lower: float(np.mean(leaf_confidence >= lower)) for lower in _LEVELS if lower < level}
    parts = [
        f"at --confidence {lower:g} {share:.0%}"
        for lower, share in shares.items()
        if share > now + _WORTH_SAYING
    ]
    return f"{now:.0%} of the cells are named in full; {', '.join(parts)} would be" if parts else ""
