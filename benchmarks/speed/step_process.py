"""Measure time and added memory of a function in its own process."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from langcell.runtime.threads import set_threads


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Lowest wall time and CPU time of a repetition, and peak memory.

    `peak_mb` is the peak in MB above the memory before the first repetition, of the GPU if one is
    used.
    """

    seconds: float
    cpu_seconds: float  # more reliable on a busy machine
    peak_mb: float


def measure(
    prepare: Callable[..., Callable[[], Any]], *arguments: Any, threads: int, repeats: int
) -> Cost:
    """Prepare a function in a new process, then measure it.

    Parameters
    ----------
    prepare: module-level function that gets the arguments and returns the function to measure
    threads: threads of the process
    repeats: runs, of which the fastest is used
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (prepare, arguments, threads, repeats))


def _measure(
    prepare: Callable[..., Callable[[], Any]],
    arguments: tuple[Any, ...],
    threads: int,
    repeats: int,
) -> Cost:
    set_threads(threads)
    run = prepare(*arguments)
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    before, seconds, cpu_seconds = _memory_mb(on_gpu, "VmRSS"), float("inf"), float("inf")
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = min(seconds, time.perf_counter() - started)
        cpu_seconds = min(cpu_seconds, time.process_time() - used)
    peak_mb = max(0.0, _memory_mb(on_gpu, "VmHWM") - before)
    return Cost(seconds=seconds, cpu_seconds=cpu_seconds, peak_mb=peak_mb)


def _memory_mb(on_gpu: bool, name: str) -> float:
    """Return the peak of a GPU, or a value of this process from the kernel; 0 if unavailable."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0
