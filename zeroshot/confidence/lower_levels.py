"""Effect of a lower confidence threshold on the share of cells called at full depth."""

import numpy as np

from langcell.runtime.parameter_names import option

_LOWER = (0.7, 0.5)  # thresholds to suggest
_LEAST_GAIN = 0.05  # share of the cells, below which a threshold is not suggested


def lower_threshold_hint(leaf_confidence: np.ndarray, threshold: float) -> str:
    """Describe the share of cells called at full depth, now and at lower thresholds.

    Return '' if lower thresholds would not add at least 5% of the cells.

    Parameters
    ----------
    leaf_confidence: calibrated probability of the best candidate, shape (n_cells,)
    threshold: lowest confidence of a call

    Examples
    --------
    >>> lower_threshold_hint(np.array([0.95, 0.8, 0.6, 0.2]), 0.9)
    '25% of the cells are named in full; at confidence 0.7 50%, at confidence 0.5 75% would be'
    """
    now = float(np.mean(leaf_confidence >= threshold))
    shares = {
        lower: float(np.mean(leaf_confidence >= lower)) for lower in _LOWER if lower < threshold
    }
    parts = [
        f"at {option('confidence')} {lower:g} {share:.0%}"
        for lower, share in shares.items()
        if share > now + _LEAST_GAIN
    ]
    return f"{now:.0%} of the cells are named in full; {', '.join(parts)} would be" if parts else ""
