"""Set the number of CPU threads of every library that has its own thread pool."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import threadpoolctl

from langcell.runtime.parameter_names import option

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_chosen: int | None = None


def available_threads() -> int:
    """Count the CPU cores that this process may use, by its affinity and its cgroup quota."""
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
    """Return the number last passed to `set_threads`, or the number of available cores."""
    return _chosen if _chosen is not None else available_threads()


def let_waiting_threads_sleep() -> None:
    """Let idle OpenMP threads sleep instead of spin; call it before a library loads OpenMP.

    Spinning threads made runs 20 times slower on a machine that was busy with other work.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def set_threads(n_threads: int | None = None) -> int:
    """Give torch, faiss, numba, BLAS and OpenMP the same number of threads.

    Loaded libraries are set now. The others read environment variables when they load, so this
    call imports nothing.

    Parameters
    ----------
    n_threads : at least 1; None for the number of available cores.

    Returns
    -------
    int : the number that was set.

    Raises
    ------
    ValueError
        If the number is not positive.
    """
    global _chosen
    if n_threads is not None and n_threads < 1:
        name = option("n_threads", flag="--threads")
        raise ValueError(f"{name} must be at least 1, got {n_threads}")
    _chosen = n_threads
    count = thread_count()
    for variable in _VARIABLES:
        # numba reads its variable at every use and raises if it changes after import.
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
    """Call `work(start, stop)` on slices of all rows, in `thread_count` Python threads.

    Use it for compiled code and matrix products, which release the GIL. Numba's own thread pool is
    not used: it must not be entered from two threads at once, or after a fork. BLAS runs with one
    thread in each of these threads, because its own threads wait for each other in busy loops.

    Parameters
    ----------
    work : function of (start, stop); the results must not depend on how rows are sliced.
    n_rows : number of rows.
    size : rows per slice.
    """
    starts = range(0, n_rows, size)
    if _chosen == 1:  # BLAS already has one thread
        for start in starts:
            work(start, min(n_rows, start + size))
        return
    with _pools().limit(limits=1, user_api="blas"):
        if len(starts) == 1 or thread_count() == 1:  # a new thread has to allocate its memory anew
            for start in starts:
                work(start, min(n_rows, start + size))
            return
        with ThreadPoolExecutor(thread_count()) as threads:
            tasks = [threads.submit(work, start, min(n_rows, start + size)) for start in starts]
            for task in tasks:
                task.result()


def one_blas_thread() -> AbstractContextManager[object]:
    """Limit BLAS to one thread: many small products run faster, and the bits do not vary."""
    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


@cache
def _pools() -> threadpoolctl.ThreadpoolController:
    """Find the libraries with thread pools, once: the search is slower than a small product."""
    return threadpoolctl.ThreadpoolController()
