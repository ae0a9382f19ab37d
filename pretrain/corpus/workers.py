"""Workers of a build: this process, several processes on one machine, or a Dask cluster."""

import atexit
import ctypes
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from langcell.runtime.parameter_names import option
from langcell.runtime.threads import let_waiting_threads_sleep, set_threads

# Parameters of mallopt(3) in glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD, _KEPT_BYTES = 1 << 25, 1 << 30  # the maximum before glibc 2.35


class _SameProcess(Executor):
    """Executor that runs each job immediately in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def open_workers(n_workers: int, dask: str = "") -> Iterator[Executor]:
    """Open workers; pending jobs are cancelled if the block raises an error.

    Parameters
    ----------
    n_workers
        Processes on this machine; with 1 this process does the work.
    dask
        Address of the scheduler of a Dask cluster whose workers share this file system; `local`
        starts a cluster here.

    Raises
    ------
    ImportError
        If dask.distributed is missing; the message names the extra.
    """
    if dask:
        with _dask_client(dask, n_workers) as client:
            yield client.get_executor()
        return
    if n_workers == 1:
        yield _SameProcess()
        return
    # Spawned, not forked: OpenMP and numba do not survive a fork.
    workers = ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=_begin_worker
    )
    try:
        yield workers
    except BaseException:
        workers.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()  # a resumed build repeats its unfinished job
        raise
    workers.shutdown()


def run_jobs(
    workers: Executor,
    function: Callable[..., int],
    jobs: Sequence[tuple[Any, ...]],
    on_done: Callable[[int], None] = lambda _n_cells: None,
) -> None:
    """Run all jobs, in any order; the first error stops them.

    Warnings of jobs are raised again in this process, so that its filters apply.

    Parameters
    ----------
    workers
        From `open_workers`.
    function
        Takes the arguments of a job and returns its number of cells.
    jobs
        Arguments of each job.
    on_done
        Called with that number after each job.
    """
    futures = []

    def finish(future: Future[Any]) -> None:
        n_cells, messages = future.result()
        for message in messages:
            warnings.warn(message, stacklevel=1)
        on_done(n_cells)

    try:
        for job in jobs:
            futures.append(workers.submit(_with_warnings, function, *job))
            if futures[-1].done():
                finish(futures.pop())
        for future in as_completed(futures):
            finish(future)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker was killed, most likely for lack of memory: lower"
            f" {option('n_workers', flag='--workers')} and run the build again to resume it"
        ) from error
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _with_warnings(function: Callable[..., int], *job: Any) -> tuple[int, list[Warning | str]]:
    """Run a job; return its result and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        n_cells = function(*job)
    return n_cells, [each.message for each in caught]


def _begin_worker() -> None:
    # A worker loads many gene and term names that are never garbage: collecting them again and again
    # took a third of its start-up.
    gc.set_threshold(100_000)
    let_waiting_threads_sleep()
    set_threads(1)  # there is one process per core
    _keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    atexit.register(os._exit, 0)  # immediately: freeing all objects takes a quarter second

    def leave_with_parent() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)  # a parent that was killed cannot stop its workers

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of returning it to the system.

    The system would have to zero it again, a tenth of the time of a build. Pieces have the same
    size, so the memory of a worker does not grow.
    """
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # the C library is not glibc
        return
    # Setting only the trim threshold would fix the mmap threshold at its low default.
    if adjust(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD):
        adjust(_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def _dask_client(address: str, n_workers: int) -> Iterator[Any]:
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError(f"{option('dask')} needs dask: pip install 'langcell[dask]'") from error
    if address == "local":
        client = Client(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)
    else:
        client = Client(address)
    with client:
        client.run(set_threads, 1)  # each worker runs one job at a time
        yield client
