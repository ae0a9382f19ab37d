"""Low-rank adapters: trained weights of which a small part is learnt (LoRA, Hu et al. 2022).

They are parametrisations of torch: whatever reads a weight, a slice of it too, reads the adapted
one, and what is written holds the sums, so that inference knows nothing of them.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Module = TypeVar("Module", bound=nn.Module)


class LoRALinear(nn.Module):
    """Adds `scale` times the product of two small matrices to a weight (arXiv 2106.09685, eq. 3).

    Parameters
    ----------
    weight
        Shape (n_outputs, n_inputs); the sum is the weight itself at first.
    rank
        Rows of the one matrix and columns of the other.
    scale
        What the paper calls alpha / r.
    """

    def __init__(self, weight: Tensor, *, rank: int, scale: float) -> None:
        super().__init__()
        n_outputs, n_inputs = weight.shape
        self.scale = scale
        # Drawn by the processor, the same for every device.
        down = torch.randn(rank, n_inputs) / n_inputs**0.5
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(torch.zeros(n_outputs, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * self.up @ self.down


def adapt_linears(module: nn.Module, *, rank: int, scale: float) -> dict[str, LoRALinear]:
    """Give every linear layer of a module an adapter; return each by the name of its weight."""
    adapters = {}
    for name, each in list(module.named_modules()):
        if isinstance(each, nn.Linear):
            adapter = LoRALinear(each.weight, rank=rank, scale=scale)
            parametrize.register_parametrization(each, "weight", adapter)
            adapters[f"{name}.weight" if name else "weight"] = adapter
    return adapters


def merged(module: Module) -> Module:
    """Return a module whose adapters are in its weights: itself if it has none, else a copy."""
    if not any(parametrize.is_parametrized(each) for each in module.modules()):
        return module
    copied = copy.deepcopy(module)
    for name, each in list(copied.named_modules()):
        if parametrize.is_parametrized(each, "weight"):
            # Taking the adapter out of a copy would take it out of the class, which is shared.
            place, _, attribute = name.rpartition(".")
            setattr(copied.get_submodule(place), attribute, _plain(each))
    return copied


def _plain(adapted: nn.Module) -> nn.Linear:
    assert isinstance(adapted, nn.Linear)
    plain = nn.Linear(adapted.in_features, adapted.out_features, device=adapted.bias.device)
    plain.weight = nn.Parameter(adapted.weight.detach())
    plain.bias = adapted.bias
    return plain
