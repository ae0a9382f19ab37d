"""Variable-length FlashAttention over packed rows, with the fastest installed kernels."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# Arguments: queries, keys and values (n_tokens, n_heads, head size), the start of each row among the
# tokens (n_rows + 1,), and the length of the longest row. Returns the output in the query's shape.
RowAttention = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

# Minimum compute capability of FlashAttention 2 and 4.
_AMPERE, _HOPPER = 8, 9
_HEAD_SIZES = (64, 96, 128)  # head sizes of FlashAttention 4


@cache
def find_row_attention(device: torch.device) -> RowAttention | None:
    """Return variable-length attention in half precision; None if the device has none.

    FlashAttention 2 (Dao 2023, arXiv 2307.08691) comes with torch. FlashAttention 4, installed with
    `langcell[flash]`, is faster on Hopper GPUs.
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

    # It compiles its own kernels; torch.compile must not trace it.
    return torch.compiler.disable(attend)
