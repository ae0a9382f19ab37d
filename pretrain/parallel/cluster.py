"""Choose accelerator, devices and strategy of a run."""

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from pretrain.recipe.config import Compute


def find_compute(wanted: Compute) -> Compute:
    """Resolve "auto", and check that this machine has the devices.

    Raises
    ------
    ValueError
        If CUDA is requested, directly or by FSDP, but missing or with too few devices.
    """
    n_found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    accelerator = wanted.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if n_found else "cpu"
    if wanted.strategy == "fsdp" and accelerator != "cuda":
        raise ValueError(
            "compute.strategy fsdp needs CUDA, but no CUDA device was found; set it to ddp"
        )
    if accelerator == "cuda" and n_found < wanted.devices:
        raise ValueError(
            f"compute.devices is {wanted.devices}, but only {n_found} CUDA devices were found; lower "
            "it, or set compute.accelerator: cpu"
        )
    return wanted.model_copy(update={"accelerator": accelerator})


def trainer_arguments(compute: Compute, precision: str) -> dict[str, Any]:
    """Return the device arguments of the Lightning trainer.

    Parameters
    ----------
    compute
        From `find_compute`.
    precision
        "32", "bf16", or "auto": bf16 on a GPU, 32 on a CPU, which without AMX is a hundred times
        slower in bf16.
    """
    is_gpu = compute.accelerator == "cuda"
    is_half = precision == "bf16" or (precision == "auto" and is_gpu)
    return {
        "accelerator": "gpu" if is_gpu else "cpu",
        "devices": compute.devices,
        "num_nodes": compute.nodes,
        "strategy": _strategy(compute),
        "precision": "bf16-mixed" if is_half else "32-true",
    }


def _strategy(compute: Compute) -> Any:
    if compute.strategy == "fsdp":
        # The module shards its weights itself, see `pretrain.parallel.sharding`.
        return ModelParallelStrategy(
            data_parallel_size=compute.n_processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )
    if compute.n_processes == 1:
        return "auto"
    # Heads without a loss have no gradient.
    return DDPStrategy(find_unused_parameters=True)
