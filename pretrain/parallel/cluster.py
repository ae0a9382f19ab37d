"""Processes, devices and strategies of a run."""

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from pretrain.recipe.config import Compute


def find_compute(wanted: Compute) -> Compute:
    """Settle what "auto" stands for, and refuse what this machine has not.

    Raises
    ------
    ValueError
        If CUDA is asked for, by name or by FSDP, and there is none, or too few devices.
    """
    n_found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    accelerator = wanted.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if n_found else "cpu"
    if wanted.strategy == "fsdp" and accelerator != "cuda":
        raise ValueError("compute.strategy fsdp needs CUDA, and there is none here; set it to ddp")
    if accelerator == "cuda" and n_found < wanted.devices:
        raise ValueError(
            f"compute.devices asks for {wanted.devices} CUDA devices, and {n_found} are here; lower "
            "it, or set compute.accelerator: cpu"
        )
    return wanted.model_copy(update={"accelerator": accelerator})


def trainer_arguments(compute: Compute, precision: str) -> dict[str, Any]:
    """Return what the trainer must know of where it runs.

    Parameters
    ----------
    compute
        From `find_compute`.
    precision
        "32", "bf16", or "auto" for what suits the device: a CPU without AMX is a hundred times
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
        # The module shares its weights out itself, see `pretrain.parallel.sharding`.
        return ModelParallelStrategy(
            data_parallel_size=compute.n_processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )
    if compute.n_processes == 1:
        return "auto"
    # Heads without a loss have no gradient.
    return DDPStrategy(find_unused_parameters=True)
