"""Arithmetic of the cell encoder, and what devices can do at most."""

import torch

from langcell.nn.config import CellEncoderConfig, StackConfig

# Dense bf16 peak in FLOP/s, from the makers' data sheets; the first name that fits counts.
_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,  # fp16
    "T4": 65e12,  # fp16
}
_PASSES = 3  # backward costs twice the forward


def flops_per_token(config: StackConfig, width: float) -> float:
    """Return the FLOP of one token in a training step, forward and backward.

    Two for each weight that a token is multiplied with, and attention to the `width` tokens of its
    row (Chowdhery et al. 2022, PaLM, appendix B); embeddings and the heads of losses are left out.

    Parameters
    ----------
    config
        Sizes; a bag of genes has one vector a cell, which is next to nothing a token.
    width
        Tokens of its row, on average over tokens: the sum of squared lengths over that of lengths.

    Examples
    --------
    >>> from langcell.nn.config import CellEncoderConfig
    >>> config = CellEncoderConfig(hidden_size=512, n_layers=12, intermediate_size=1024)
    >>> f"{flops_per_token(config, 2048):.3g}"
    '3.02e+08'
    """
    if isinstance(config, CellEncoderConfig) and config.kind == "bag":
        return float(_PASSES * 2 * config.hidden_size)
    hidden, inner = config.hidden_size, config.intermediate_size
    weights = 4 * hidden**2 + 2 * hidden * inner
    attention = 2 * width * hidden  # scores, and the values that they weigh
    return float(_PASSES * 2 * config.n_layers * (weights + attention))


def peak_flops(device: torch.device) -> float:
    """Return the peak of a device in FLOP/s, 0 where it is not known (as of every CPU)."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAKS.items() if known in name), 0.0)
