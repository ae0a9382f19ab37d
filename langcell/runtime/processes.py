"""Rank of this process in a distributed run."""

import os
import sys

# Rank variables of torchrun, Lightning's own launcher and SLURM, in this order.
_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def process_number() -> int:
    """Return the rank of this process; 0 if it runs alone."""
    distributed = sys.modules.get("torch.distributed")  # no process group without this import
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    ranks = (os.environ[name] for name in _VARIABLES if name in os.environ)
    return int(next(ranks, "0"))


def is_first_process() -> bool:
    """Tell whether this process has rank 0, the one that writes the outputs."""
    return process_number() == 0
