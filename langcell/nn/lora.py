"""Low-rank adapters for fine-tuning (LoRA, Hu et al. 2022).

They are torch parametrisations: every access to a weight, also to a slice of it, gives the adapted
weight. Saved weights have the adapters merged in, so inference needs no adapter code.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Module = TypeVar("Module", bound=nn.Module)


class LoRALinear(nn.Module):
    """Add `scale` times the product of two small matrices to a weight (arXiv 2106.09685, eq. 3).

    Parameters
    ----------
    weight
        Shape (n_outputs, n_inputs). At initialisation the adapted weight equals it.
    rank
        Inner dimension of the product.
    scale
        alpha / r of the paper.
    """

    def __init__(self, weight: Tensor, *, rank: int, scale: float) -> None:
        super().__init__()
        n_outputs, n_inputs = weight.shape
        self.scale = scale
        # Drawn on the CPU, so that the values are the same for every device.
        down = torch.randn(rank, n_inputs) / n_inputs**0.5
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(torch.zeros(n_outputs, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * self.up @ self.down


def adapt_linears(module: nn.Module, *, rank: int, scale: float) -> dict[str, LoRALinear]:
    """Add an adapter to every linear layer of a module; return the adapters by weight name."""
    adapters = {}
    for name, each in list(module.named_modules()):
        if isinstance(each, nn.Linear):
            adapter = LoRALinear(each.weight, rank=rank, scale=scale)
            parametrize.register_parametrization(each, "weight", adapter)
            adapters[f"{name}.weight" if name else "weight"] = adapter
    return adapters


def merged(module: Module) -> Module:
    """Return a copy of a module with its adapters merged; the module itself if it has none."""
    if not any(parametrize.is_parametrized(each) for each in module.modules()):
        return module
    copied = copy.deepcopy(module)
    for name, each in list(copied.named_modules()):
        if parametrize.is_parametrized(each, "weight"):
            # Removing the parametrisation would change the class, which the copy shares.
            parent, _, attribute = name.rpartition(".")
            setattr(copied.get_submodule(parent), attribute, _plain(each))
    return copied


def _plain(adapted: nn.Module) -> nn.Linear:
    assert isinstance(adapted, nn.Linear)
    plain = nn.Linear(adapted.in_features, adapted.out_features, device=adapted.bias.device)
    plain.weight = nn.Parameter(adapted.weight.detach())
    plain.bias = adapted.bias
    return plain
