"""Result card of a run of the arena: all scores as JSON, and the main ones as Markdown tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.arena.results import Figure, Result
from benchmarks.arena.run import Suite
from langcell.runtime.output_file import replaced_file
from langcell.runtime.version import __version__

LEAK = "†"
SHOWN = 9  # scores of a task in its table; the JSON has all
_FORM = "langcell-benchmark-1"


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """Description of a task; see `benchmarks.arena.results.Task`."""

    name: str
    title: str
    data: str
    digest: str
    figures: tuple[str, ...]
    by_row: bool


@dataclass(frozen=True, kw_only=True)
class ResultCard:
    """Results of a run of the arena.

    Attributes
    ----------
    kinds: kinds of methods, in the order of the tables
    left_out: messages about what is missing and why
    """

    suite: str
    version: str
    ontology: str
    tasks: tuple[TaskFacts, ...]
    kinds: Mapping[str, str]
    results: tuple[Result, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, suite: Suite, results: Sequence[Result], ontology: str) -> "ResultCard":
        """Return the card of the results of a suite."""
        names = TaskFacts.__dataclass_fields__
        tasks = tuple(TaskFacts(**{each: getattr(task, each) for each in names}) for task in suite.tasks)  # fmt: skip
        return cls(
            suite=suite.name,
            version=__version__,
            ontology=ontology,
            tasks=tasks,
            kinds={each.name: each.kind for each in suite.methods},
            results=tuple(results),
            left_out=suite.left_out,
        )

    @classmethod
    def read(cls, path: Path) -> "ResultCard":
        """Read a card.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, or not a result card.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; langcell benchmark run writes results.json"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict) or values.pop("form", None) != _FORM:
            raise ValueError(f"{path} is not a results.json of langcell benchmark run ({_FORM})")
        tasks = tuple(TaskFacts(**{**t, "figures": tuple(t["figures"])}) for t in values["tasks"])
        results = tuple(Result.of(each) for each in values["results"])
        left_out = tuple(values["left_out"])
        return cls(**{**values, "tasks": tasks, "results": results, "left_out": left_out})

    def write(self, path: Path) -> None:
        """Write the card as JSON."""
        with replaced_file(path) as temporary:
            text = json.dumps({"form": _FORM, **asdict(self)}, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def result(self, task: TaskFacts, method: str) -> Result | None:
        """Return the result of a method, None if it was not run."""
        for each in self.results:
            if (each.task, each.method) == (task.name, method):
                return each
        return None

    def ranked(self, task: TaskFacts) -> list[tuple[Result, Figure]]:
        """Return the results with the main score of a task, best first."""
        found = []
        for each in self.results:
            figure = each.figure(task.figures[0], by_row=task.by_row)
            if each.task == task.name and figure is not None:
                found.append((each, figure))
        return sorted(found, key=lambda pair: -pair[1].mean)


def markdown(card: ResultCard) -> str:
    """Format a card as Markdown tables."""
    parts = [
        f"# langcell benchmark: {card.suite}",
        f"langcell {card.version}, {card.ontology}. {LEAK} marks a row that may know some of its data "
        "(see `clean`, the mean without them). Intervals: 95 %, bootstrap over units (studies, donors, "
        "sources of lists). A dash: not asked.",
        overview(card),
    ]
    parts += [_task_table(card, task) for task in card.tasks]
    if card.left_out:
        parts.append("\n".join(["Left out:", "", *(f"- {line}" for line in card.left_out)]))
    return "\n\n".join(parts) + "\n"


def overview(card: ResultCard) -> str:
    """Return a table of the main score of each task, one row per method."""
    tasks = [task for task in card.tasks if card.ranked(task)]
    heads = [f"{task.name}: {task.figures[0]}" for task in tasks]
    rows = []
    for name, kind in card.kinds.items():
        cells = [_main(card, task, name) for task in tasks]
        if any(cell != "–" for cell in cells):
            rows.append([name, kind, *cells])
    return table(["method", "kind", *heads], rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns.

    >>> print(table(["a", "b"], [["1", "long"]]))
    | a   | b    |
    | --- | ---- |
    | 1   | long |
    """
    widths = [max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _main(card: ResultCard, task: TaskFacts, method: str) -> str:
    result = card.result(task, method)
    figure = result.figure(task.figures[0], by_row=task.by_row) if result else None
    if result is None or figure is None:
        return "–"
    return f"{figure.mean:.3f}{LEAK if result.leaks else ''}"


def _task_table(card: ResultCard, task: TaskFacts) -> str:
    names = task.figures[:SHOWN]
    rows = []
    for result, main in card.ranked(task):
        interval = f"{main.low:.3f} to {main.high:.3f}" if main.low is not None else "–"
        clean = f"{main.clean:.3f}" if main.clean is not None else "–"
        name = f"{result.method}{LEAK if result.leaks else ''}"
        figures = [result.figure(each, by_row=task.by_row) for each in names]
        cells = [f"{each.mean:.3f}" if each else "–" for each in figures]
        rows.append([name, cells[0], interval, clean, *cells[1:], f"{result.seconds:.1f}"])
    heads = ["method", names[0], "interval", "clean", *names[1:], "seconds"]
    lines = [f"## {task.name}", f"{task.title}. {task.data}.", table(heads, rows)]
    notes = [f"- {each.method}: {note}" for each, _ in card.ranked(task) for note in each.notes]
    leaks = [
        f"- {LEAK} {each.method}: {line}"
        for each, _ in card.ranked(task)
        if (line := leak_line(each))
    ]
    return "\n\n".join([*lines, *(["\n".join([*notes, *leaks])] if notes or leaks else [])])


def leak_line(result: Result) -> str:
    """Return a line about the leaks of units, '' if there are none."""
    by_leak: dict[str, list[str]] = {}
    for unit in result.units:
        if unit.leak:
            by_leak.setdefault(unit.leak, []).append(unit.name.removesuffix(f", {unit.leak}"))
    return "; ".join(
        f"{leak} ({', '.join(dict.fromkeys(names))})" for leak, names in by_leak.items()
    )
