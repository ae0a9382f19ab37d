"""Which of the processes that work together this one is."""

import os
import sys

# As torchrun, Lightning's own launcher and SLURM name the number of a process, in this order.
_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def process_number() -> int:
    """Return the rank of this process among those that were started together; 0 for one alone."""
    distributed = sys.modules.get("torch.distributed")  # who has not imported it has no group
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    found = (os.environ[name] for name in _VARIABLES if name in os.environ)
    return int(next(found, "0"))


def is_first_process() -> bool:
    """Tell whether this process writes the outputs."""
    return process_number() == 0
