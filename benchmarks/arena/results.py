"""Result of one method on one task: scores of each unit, their means and intervals.

A unit is resampled in the bootstrap: a study, a donor, or a source of marker lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.arena.leaks import TrainedOn
from benchmarks.scoring.scoring import mean_and_interval


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Scores of one study, donor or source of lists.

    Attributes
    ----------
    n: number of cells, lists or puzzles
    figures: scores by name; None if a score is undefined
    leak: how the method may know the unit from training; '' if no leak was found
    """

    name: str
    n: int
    figures: Mapping[str, float | None]
    leak: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The mean of a score over units.

    Attributes
    ----------
    low, high: 95 % bootstrap interval over units; None for a single unit
    clean: mean over units without a leak; None if no unit leaks, or all do
    """

    mean: float
    low: float | None
    high: float | None
    clean: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of one method on one task.

    Attributes
    ----------
    key: digest of everything that it depends on
    seconds: run time
    notes: remarks, such as failed answers
    """

    task: str
    method: str
    key: str
    seconds: float
    units: tuple[Unit, ...]
    notes: tuple[str, ...] = ()

    @property
    def leaks(self) -> bool:
        """Tell whether any unit leaks."""
        return any(unit.leak for unit in self.units)

    def figure(self, name: str, *, by_row: bool) -> Figure | None:
        """Average a score over the units that have it; None if none has.

        Parameters
        ----------
        by_row: weight units by their numbers of rows, else equally
        """
        units = [unit for unit in self.units if unit.figures.get(name) is not None]
        if not units:
            return None
        mean, low, high = _mean(units, name, by_row)
        clean = [unit for unit in units if not unit.leak]
        is_mixed = 0 < len(clean) < len(units)
        return Figure(
            mean=mean,
            low=low if len(units) > 1 else None,
            high=high if len(units) > 1 else None,
            clean=_mean(clean, name, by_row)[0] if is_mixed else None,
        )

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Result":
        """Return the result of a record."""
        units = tuple(Unit(**each) for each in record["units"])
        return cls(**{**record, "units": units, "notes": tuple(record["notes"])})


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A method to benchmark.

    Attributes
    ----------
    name: name in tables and file names
    kind: model, few-shot, baseline, recorded or language model
    annotator: object that tasks call; each task checks what it supports
    identity: digest of everything that its answers depend on
    trained_on: its training data; None if there is none, or unknown
    """

    name: str
    kind: str
    annotator: object
    identity: str
    trained_on: TrainedOn | None = None


class Task(Protocol):
    """Protocol of a benchmark task.

    Attributes
    ----------
    name: short name for tables and file names
    title: one line about the task
    data: one line about its data
    figures: names of the scores, the main one first
    by_row: weight units by their numbers of rows
    """

    name: str
    title: str
    data: str
    figures: tuple[str, ...]
    by_row: bool

    @property
    def digest(self) -> str:
        """Digest of everything but the method that the result depends on."""
        ...

    def takes(self, annotator: object) -> bool:
        """Tell whether the task supports an annotator."""
        ...

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Run a supported method; return the scores of each unit, and notes."""
        ...


def rounded(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return rounded scores, with None for NaN."""
    return {
        name: None if np.isnan(value) else round(float(value), 5) for name, value in figures.items()
    }


def average(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the scores of several parts of a unit."""
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def _mean(units: Sequence[Unit], name: str, by_row: bool) -> tuple[float, float, float]:
    values = np.array([unit.figures[name] for unit in units], dtype=float)
    weights = np.array([unit.n for unit in units]) if by_row else None
    return mean_and_interval(values, weights=weights)
