"""What makes a run repeatable: where random numbers stand, and the order of sums."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

RandomState = tuple[Tensor, Tensor | None]  # of the CPU, and of a CUDA device


def random_state(device: torch.device) -> RandomState:
    """Return the state of the generators that dropout on a device draws from."""
    return torch.get_rng_state(), (
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    )


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Put the generators back to where they stood."""
    torch.set_rng_state(state[0])
    if state[1] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def repeatable(accelerator: str) -> Iterator[None]:
    """Let a CPU add in the same order each time, within a block; a GPU stays as it is.

    Else threads that add to one row of a gradient do so as they come, and the last bits differ.
    """
    if accelerator != "cpu":
        yield
        return
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # which finds mistakes, and is slow
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        memory.fill_uninitialized_memory = before[1]
