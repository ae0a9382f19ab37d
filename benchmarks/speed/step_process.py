"""One measured function in a process of its own: seconds, and memory above what it started with."""

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
    """The least seconds of a repetition, on the clock and of processors, and memory.

    `peak_mb` is the peak in MB beyond what was there before the first repetition, of the GPU where
    one is used.
    """

    seconds: float
    cpu_seconds: float  # of a busy machine the ones to trust
    peak_mb: float


def measure(
    prepare: Callable[..., Callable[[], Any]], *arguments: Any, threads: int, repeats: int
) -> Cost:
    """Prepare in a fresh process, then run what was prepared.

    Parameters
    ----------
    prepare: a function of a module, called with the arguments, that returns what is measured
    threads: of the process
    repeats: runs of which the fastest counts
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
    """Return the peak of a GPU, or a figure of this process from the kernel; 0 where there is none."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0
