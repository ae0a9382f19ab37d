"""Weights sharded over processes (FSDP; Zhao et al. 2023, arXiv 2304.11277).

The blocks of the transformers are sharded; each process keeps a full copy of all other weights
(embeddings, projections, heads, temperature). A process holds one or two full blocks at a time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from langcell.nn.bert import BertStack
from pretrain.parallel.gather import World


def shard_weights(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the blocks of all transformer stacks over the processes of a one-dimensional mesh."""
    for stack in [each for each in model.modules() if isinstance(each, BertStack)]:
        for block in stack.blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(stack, mesh=mesh)  # has no weights itself, but prefetches the next block


def is_sharded(weight: Tensor) -> bool:
    """Tell whether a weight is sharded."""
    return isinstance(weight, DTensor)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights by name in the first process, on the CPU; all processes must call this."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Tensor] = get_model_state_dict(model, options=options)  # type: ignore[assignment]
    return found


def average_gradients(weights: Sequence[Tensor], world: World) -> None:
    """Average the gradients of unsharded weights over processes; FSDP averages the others."""
    own = [each for each in weights if not is_sharded(each)]
    # A process without cells for a loss has no gradient for its weights.
    has_one = torch.tensor([each.grad is not None for each in own], device=own[0].device)
    found = [each for each, n in zip(own, world.total(has_one.int()).tolist(), strict=True) if n]
    if not found:
        return
    flat = [
        torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten()
        for each in found
    ]
    mean = world.mean(torch.cat(flat)).split([len(each) for each in flat])
    for each, part in zip(found, mean, strict=True):
        each.grad = part.view_as(each)


def clip_gradients(weights: Sequence[Tensor], limit: float) -> Tensor:
    """Scale gradients so that their norm over all weights is `limit` at most; return the norm."""
    found = [each for each in weights if each.grad is not None]
    norms = []
    for sharded in (True, False):  # one call cannot mix the two
        gradients = [
            each.grad for each in found if is_sharded(each) == sharded and each.grad is not None
        ]
        if gradients:
            norm = nn.utils.get_total_norm(gradients)
            norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.stack(norms).norm()
    for sharded in (True, False):
        nn.utils.clip_grads_with_norm_(
            [each for each in found if is_sharded(each) == sharded], limit, total
        )
    return total
