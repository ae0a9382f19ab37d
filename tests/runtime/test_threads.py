import subprocess
import sys

import pytest

from langcell.runtime import threads

SCRIPT = """
import os, sys
{before}
from langcell.runtime.threads import set_threads, thread_count
assert set_threads(1) == thread_count() == 1
assert os.environ["OMP_NUM_THREADS"] == "1"
loaded = {{name for name in ("torch", "faiss", "numba") if name in sys.modules}}
{after}
print(sorted(loaded))
"""


def run(before: str = "", after: str = "") -> str:
    script = SCRIPT.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_imported_for_the_sake_of_setting_it() -> None:
    assert run() == "[]"


def test_libraries_that_are_loaded_are_set() -> None:
    checks = """
assert torch.get_num_threads() == 1
assert faiss.omp_get_max_threads() == 1
assert numba.get_num_threads() == 1
"""
    assert run("import torch, faiss, numba", checks) == "['faiss', 'numba', 'torch']"


def test_libraries_loaded_later_read_the_environment() -> None:
    checks = """
import torch, numba
assert torch.get_num_threads() == 1
assert numba.get_num_threads() == 1
"""
    assert run("", checks) == "[]"


def test_the_default_is_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= threads.available_threads()
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for limit, expected in [("max 100000", 16), ("250000 100000", 2), ("50000 100000", 1)]:
        file = type("Limit", (), {"read_text": lambda self, limit=limit: limit})()
        monkeypatch.setattr(threads, "_CGROUP_LIMIT", file)
        assert threads.available_threads() == expected


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        threads.set_threads(0)


def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    threads.let_waiting_threads_sleep()
    assert threads.os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.let_waiting_threads_sleep()
    assert threads.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
