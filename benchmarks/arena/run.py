"""A run of the arena: every method in every task that takes it, each result kept on disk."""

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

_KEPT = "parts"  # folder of single results


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """Who meets what.

    Attributes
    ----------
    spared: pairs of a kind of method and a task that would take too long
    left_out: lines that say what is missing and why
    """

    name: str
    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    spared: frozenset[tuple[str, str]] = frozenset()
    left_out: tuple[str, ...] = ()

    def pairs(self) -> Iterator[tuple[Method, Task]]:
        """Yield who is asked what, the tasks of one method after another."""
        for method in self.methods:
            for task in self.tasks:
                is_spared = (method.kind, task.name) in self.spared
                if task.takes(method.annotator) and not is_spared:
                    yield method, task


def run_suite(suite: Suite, folder: Path, say: Callable[[str], None]) -> list[Result]:
    """Run what is not in the folder yet.

    A result is kept as soon as it is there, under a digest of all that it depends on: files, weights,
    ontology, and the code of the benchmarks. A run that is stopped goes on where it was.

    Parameters
    ----------
    folder: of the run; made for the first result
    say: takes a line of progress
    """
    kept = folder / _KEPT
    results = []
    for method, task in suite.pairs():
        key = result_key(method, task)
        path = kept / f"{_plain(task.name)}-{_plain(method.name)}-{key[:12]}.json"
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
        say(f"{task.name}: {method.name}, {result.seconds:.1f} s")
        results.append(result)
    return results


def result_key(method: Method, task: Task) -> str:
    """Return the digest of all that a result depends on."""
    parts = [__version__, _code(), task.name, task.digest, method.name, method.identity]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """Digest of the modules of the benchmarks."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(name: str) -> str:
    """Return a name that a file may bear."""
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in name)
