"""The one place that says how many threads run, for every library that has a pool of its own."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import threadpoolctl

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_chosen: int | None = None


def available_threads() -> int:
    """Count the cores this process may use: its affinity and, in a container, its share."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        cores = os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def thread_count() -> int:
    """Return the number last given to `set_threads`, else the cores available."""
    return _chosen if _chosen is not None else available_threads()


def let_waiting_threads_sleep() -> None:
    """Tell OpenMP, before a library loads it, that threads sleep while they wait for each other.

    They spin otherwise, which made runs 20 times slower on a machine busy with other work.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def set_threads(n_threads: int | None = None) -> int:
    """Give torch, faiss, numba, BLAS and OpenMP the same number of threads.

    Libraries that are loaded are set now; those that are not read the environment when they load,
    so that nothing is imported for the sake of this call.

    Parameters
    ----------
    n_threads : at least 1; None for the cores available.

    Returns
    -------
    int : the number set.

    Raises
    ------
    ValueError
        If the number is not positive.
    """
    global _chosen
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"--threads must be at least 1, got {n_threads}")
    _chosen = n_threads
    count = thread_count()
    for variable in _VARIABLES:
        # numba reads its variable again at every use, and refuses a change once it is loaded.
        if not (variable.startswith("NUMBA") and "numba" in sys.modules):
            os.environ[variable] = str(count)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(count)
    threadpoolctl.threadpool_limits(limits=count)
    return count


def over_slices(work: Callable[[int, int], None], n_rows: int, *, size: int) -> None:
    """Let plain threads, as many as `thread_count` says, do `work(start, stop)` for all rows.

    For compiled code and products of matrices, which hold no lock of the interpreter. Numba's own
    pool may not be entered from two threads at once, or after a fork; BLAS gets one thread for each
    of ours, as its own wait for each other in busy loops.

    Parameters
    ----------
    work : what is done to the rows from start to stop; the results may not depend on the slices.
    n_rows : how many there are.
    size : rows a slice.
    """
    starts = range(0, n_rows, size)
    if _chosen == 1:  # BLAS has one thread already
        for start in starts:
            work(start, min(n_rows, start + size))
        return
    with _pools().limit(limits=1, user_api="blas"):
        if len(starts) == 1 or thread_count() == 1:  # threads have memory of their own, new to each
            for start in starts:
                work(start, min(n_rows, start + size))
            return
        with ThreadPoolExecutor(thread_count()) as threads:
            tasks = [threads.submit(work, start, min(n_rows, start + size)) for start in starts]
            for task in tasks:
                task.result()


def one_blas_thread() -> AbstractContextManager[object]:
    """Let BLAS work alone for a while: many small products are slower shared, and differ in bits."""
    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


@cache
def _pools() -> threadpoolctl.ThreadpoolController:
    """Find the libraries that have pools; looking for them takes longer than a small product."""
    return threadpoolctl.ThreadpoolController()
