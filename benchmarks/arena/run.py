"""Run the arena: every method on every task that supports it, with each result saved to disk."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.arena.results import Method, Result, Task
from langcell.runtime.output_file import replaced_file
from langcell.runtime.version import __version__

_RESULTS = "parts"  # folder of single results


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """Methods and tasks of a run.

    Attributes
    ----------
    skipped: pairs (kind of method, task) that would take too long
    left_out: messages about what is missing and why
    """

    name: str
    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    skipped: frozenset[tuple[str, str]] = frozenset()
    left_out: tuple[str, ...] = ()

    def pairs(self) -> Iterator[tuple[Method, Task]]:
        """Yield all pairs to run, grouped by method."""
        for method in self.methods:
            for task in self.tasks:
                is_skipped = (method.kind, task.name) in self.skipped
                if task.takes(method.annotator) and not is_skipped:
                    yield method, task


def run_suite(suite: Suite, folder: Path, log: Callable[[str], None]) -> list[Result]:
    """Run all pairs whose results are not in the folder yet.

    Each result is saved under a digest of everything it depends on: files, weights, ontology, and the
    code of the benchmarks. So a run that was stopped can be resumed.

    Parameters
    ----------
    folder: folder of the run; created for the first result
    log: called with a progress message
    """
    kept = folder / _RESULTS
    results = []
    for method, task in suite.pairs():
        key = result_key(method, task)
        path = kept / f"{_file_name(task.name)}-{_file_name(method.name)}-{key[:12]}.json"
        if path.is_file():
            results.append(Result.of(json.loads(path.read_text(encoding="utf-8"))))
            continue
        started = time.monotonic()
        units, notes = task.units(method)
        result = Result(
            task=task.name,
            method=method.name,
            key=key,
            seconds=round(time.monotonic() - started, 2),
            units=tuple(units),
            notes=tuple(notes),
        )
        kept.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary:
            temporary.write_text(json.dumps(result.record()) + "\n", encoding="utf-8")
        log(f"{task.name}: {method.name}, {result.seconds:.1f} s")
        results.append(result)
    return results


def result_key(method: Method, task: Task) -> str:
    """Return the digest of everything that a result depends on."""
    parts = [__version__, _code(), task.name, task.digest, method.name, method.identity]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """Return the digest of the source code of the benchmarks."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _file_name(name: str) -> str:
    """Return a name as a valid file name."""
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in name)
