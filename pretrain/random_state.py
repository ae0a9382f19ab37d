"""Where torch's random numbers stand, so that they can be drawn again."""

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
