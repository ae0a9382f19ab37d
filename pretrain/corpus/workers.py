"""Who does the work of a build: this process, several on one machine, or a Dask cluster."""

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

from langcell.runtime.threads import let_waiting_threads_sleep, set_threads

# Of mallopt(3) in glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD, _KEPT_BYTES = 1 << 25, 1 << 30  # glibc before 2.35 takes no larger one


class _SameProcess(Executor):
    """Does each job at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def open_workers(n_workers: int, dask: str = "") -> Iterator[Executor]:
    """Open workers; those that have not begun are called off when the block is left by an error.

    Parameters
    ----------
    n_workers
        Processes on this machine; with 1 this process does the work itself.
    dask
        Address of the scheduler of a Dask cluster whose workers share this file system; `local`
        starts one here.

    Raises
    ------
    ImportError
        Without dask.distributed; it names the extra.
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
            child.terminate()  # what it had not finished is done again by the next start
        raise
    workers.shutdown()


def run_jobs(
    workers: Executor,
    function: Callable[..., int],
    jobs: Sequence[tuple[Any, ...]],
    on_done: Callable[[int], None] = lambda _n_cells: None,
) -> None:
    """Do all jobs, in any order; the first error stops them.

    What they warn of is said by this process, which knows what was said before and how.

    Parameters
    ----------
    workers
        From `open_workers`.
    function
        Takes the parts of a job and returns how many cells it dealt with.
    jobs
        Arguments.
    on_done
        Told that number after each job.
    """
    futures = []

    def end(future: Future[Any]) -> None:
        n_cells, said = future.result()
        for message in said:
            warnings.warn(message, stacklevel=1)
        on_done(n_cells)

    try:
        for job in jobs:
            futures.append(workers.submit(_with_warnings, function, *job))
            if futures[-1].done():
                end(futures.pop())
        for future in as_completed(futures):
            end(future)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker was killed, most likely for want of memory: give fewer --workers; the same"
            " command goes on where this one stopped"
        ) from error
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _with_warnings(function: Callable[..., int], *job: Any) -> tuple[int, list[Warning | str]]:
    """Do a job; return what it returns and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        n_cells = function(*job)
    return n_cells, [each.message for each in caught]


def _begin_worker() -> None:
    # The names of genes and terms that a worker begins with are no garbage: to look through them
    # again and again took a third of its start.
    gc.set_threshold(100_000)
    let_waiting_threads_sleep()
    set_threads(1)  # there is a process for each core
    _keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
    atexit.register(os._exit, 0)  # at once: to free all names one by one takes a quarter second

    def leave_with_parent() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)  # a parent that was killed calls no one off

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Let the C library give the memory of one piece to the next instead of back to the system.

    Which must fill with zeros what it gives out again: a tenth of the time of a build. Pieces are of
    one size, so that a worker does not grow by it.
    """
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # the C library is another one than glibc
        return
    # Trimming by itself would fix the other at its first value, which is far too low.
    if adjust(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD):
        adjust(_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def _dask_client(address: str, n_workers: int) -> Iterator[Any]:
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError("--dask needs dask: pip install 'langcell[dask]'") from error
    if address == "local":
        client = Client(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)
    else:
        client = Client(address)
    with client:
        client.run(set_threads, 1)  # each of its workers does one job at a time
        yield client
