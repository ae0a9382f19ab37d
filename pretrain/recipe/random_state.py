"""Reproducibility of a run: random states, and deterministic sums on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

RandomState = tuple[Tensor, Tensor | None]  # of the CPU and of a CUDA device


def random_state(device: torch.device) -> RandomState:
    """Return the state of the random generators that dropout on a device uses."""
    return torch.get_rng_state(), (
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    )


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Restore the state of the random generators."""
    torch.set_rng_state(state[0])
    if state[1] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def repeatable(accelerator: str) -> Iterator[None]:
    """Make sums on a CPU deterministic within a block; a GPU is not affected.

    Otherwise threads that add to the same row of a gradient do so in any order, and the last bits
    differ.
    """
    if accelerator != "cpu":
        yield
        return
    deterministic: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # a slow debugging aid
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        deterministic.fill_uninitialized_memory = before[1]
