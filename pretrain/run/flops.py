"""FLOP per token of the cell encoder, and the peak FLOP/s of devices."""

import torch

from langcell.nn.config import CellEncoderConfig, StackConfig

# Dense bf16 peak in FLOP/s, from the vendors' data sheets; the first matching name is used.
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

    Two FLOP per weight, plus attention to the `width` tokens of the row (Chowdhery et al. 2022,
    PaLM, appendix B). Embeddings and loss heads are not counted.

    Parameters
    ----------
    config
        Sizes of the encoder; a bag of genes costs next to nothing per token.
    width
        Mean row length over tokens: sum of squared row lengths divided by the sum of row lengths.

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
    attention = 2 * width * hidden  # scores, and the weighted sum of values
    return float(_PASSES * 2 * config.n_layers * (weights + attention))


def peak_flops(device: torch.device) -> float:
    """Return the peak FLOP/s of a device, 0 if unknown (always on a CPU)."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAKS.items() if known in name), 0.0)
