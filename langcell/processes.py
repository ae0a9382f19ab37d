"""Which of the processes that work together this one is."""


def process_number() -> int:
    """Return the rank that torchrun, SLURM or Lightning gave this process; 0 for one alone."""
    # Takes seconds to import, and none but runs of several processes ask.
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0)  # None where nothing says so


def is_first_process() -> bool:
    """Tell whether this process writes the outputs."""
    return process_number() == 0
