"""Processes that share the work of a build: how they begin, and how they end."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import signal
import time

from langcell.runtime.threads import thread_count
from pretrain.corpus.workers import open_workers, run_jobs


def hold(number):
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    print("at work", ignored, thread_count(), flush=True)
    time.sleep(600)
    return 1


if __name__ == "__main__":
    with open_workers(2) as workers:
        run_jobs(workers, hold, [(0,), (1,)])
"""

WARNING = """
import warnings

from pretrain.corpus.workers import open_workers, run_jobs


def copy(number):
    warnings.warn("a copy is made", stacklevel=1)
    return number


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught, open_workers(2) as workers:
        run_jobs(workers, copy, [(1,), (2,), (3,)], lambda n: print(n, flush=True))
    print(*(each.message for each in caught))
"""


def test_what_workers_warn_of_is_said_once_by_the_process_that_began_them(tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(WARNING)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    *numbers, said = done.stdout.splitlines()
    assert (sorted(numbers), said, done.stderr) == (["1", "2", "3"], "a copy is made", "")


def test_workers_have_a_core_each_leave_interrupts_alone_and_end_with_a_parent_that_is_killed(
    tmp_path: Path,
) -> None:
    script = tmp_path / "build.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as of:
        assert of.stdout is not None
        assert [of.stdout.readline() for _ in range(2)] == ["at work True 1\n"] * 2
        of.kill()
        # The pipe is theirs, too: it ends when the last of them has.
        assert of.communicate(timeout=60) == ("", None)
