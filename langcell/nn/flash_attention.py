"""FlashAttention over rows that stand end to end, by the fastest kernels that are installed."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# Queries, keys and values (n_tokens, n_heads, head size), where each row begins among the tokens
# (n_rows + 1,), and the longest row; returns what the queries read, shaped as they are.
RowAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

# Compute capabilities from which the second and the fourth version have kernels.
_AMPERE, _HOPPER = 8, 9
_HEAD_SIZES = (64, 96, 128)  # of the fourth version


@cache
def find_row_attention(device: torch.device) -> RowAttention | None:
    """Return variable-length attention in half precision; None where there is none for the device.

    The second version (Dao 2023, arXiv 2307.08691) comes with torch. The fourth, where `langcell[flash]`
    is installed, is faster on Hopper GPUs.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < _AMPERE:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None

    def second(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, width: int) -> Tensor:
        attended = varlen_attn(query, key, value, starts, starts, width, width)
        assert isinstance(attended, Tensor)
        return attended

    fourth = _fourth_version(device)
    if fourth is None:
        return second

    def fitting(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, width: int) -> Tensor:
        attend = fourth if query.shape[-1] in _HEAD_SIZES else second
        return attend(query, key, value, starts, width)

    return fitting


def _fourth_version(device: torch.device) -> RowAttention | None:
    if torch.cuda.get_device_capability(device)[0] < _HOPPER:
        return None
    try:
        from flash_attn.cute import flash_attn_varlen_func
    except ImportError:
        return None

    def attend(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, width: int) -> Tensor:
        made = flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens_q=starts,
            cu_seqlens_k=starts,
            max_seqlen_q=width,
            max_seqlen_k=width,
        )
        attended = made[0] if isinstance(made, tuple) else made
        assert isinstance(attended, Tensor)
        return attended

    # It compiles its kernels itself; torch.compile must not look into it.
    return torch.compiler.disable(attend)
