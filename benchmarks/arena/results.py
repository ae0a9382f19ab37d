"""What one method reaches in one task: figures of each unit, their means and intervals.

A unit is what is drawn again in a bootstrap: a study, a donor, the source of marker lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.arena.leaks import TrainedOn
from benchmarks.scoring.scoring import mean_and_interval


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Figures of one study, donor or source of lists.

    Attributes
    ----------
    n: cells, lists or puzzles
    figures: by name; None where one cannot be had
    leak: how the method may know the unit already; '' where nothing says so
    """

    name: str
    n: int
    figures: Mapping[str, float | None]
    leak: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The mean of a figure over units.

    Attributes
    ----------
    low, high: ends of the 95 % bootstrap interval over units; None where there is one unit
    clean: the mean over units without a leak; None where there is none, or all are
    """

    mean: float
    low: float | None
    high: float | None
    clean: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One method in one task.

    Attributes
    ----------
    key: digest of all that it depends on
    seconds: that it took
    notes: what a reader should know, such as answers that failed
    """

    task: str
    method: str
    key: str
    seconds: float
    units: tuple[Unit, ...]
    notes: tuple[str, ...] = ()

    @property
    def leaks(self) -> bool:
        """Tell whether a unit may be known already."""
        return any(unit.leak for unit in self.units)

    def figure(self, name: str, *, by_row: bool) -> Figure | None:
        """Average a figure over the units that have it; None where none has.

        Parameters
        ----------
        by_row: a unit weighs as much as it has rows; else all weigh the same
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
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Result":
        """Return the result that a record is of."""
        units = tuple(Unit(**each) for each in record["units"])
        return cls(**{**record, "units": units, "notes": tuple(record["notes"])})


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """Who is measured.

    Attributes
    ----------
    name: for tables and file names
    kind: model, few-shot, baseline, recorded or language model
    annotator: what tasks ask; each says what it takes
    identity: digest of all that its answers depend on
    trained_on: what it learnt from; None where that is nothing or not known
    """

    name: str
    kind: str
    annotator: object
    identity: str
    trained_on: TrainedOn | None = None


class Task(Protocol):
    """Something that methods are measured in.

    Attributes
    ----------
    name: short, for tables and file names
    title: what is asked, in a line
    data: what it is asked of, in a line
    figures: names, the main one first
    by_row: units weigh as much as they have rows
    """

    name: str
    title: str
    data: str
    figures: tuple[str, ...]
    by_row: bool

    @property
    def digest(self) -> str:
        """What the outcome depends on but the method."""
        ...

    def takes(self, annotator: object) -> bool:
        """Tell whether an annotator can be asked."""
        ...

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Ask a method that is taken; return figures of each unit, and notes."""
        ...


def rounded(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures for a record, which has no NaN."""
    return {
        name: None if np.isnan(value) else round(float(value), 5) for name, value in figures.items()
    }


def average(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the figures of several parts of a unit."""
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def _mean(units: Sequence[Unit], name: str, by_row: bool) -> tuple[float, float, float]:
    values = np.array([unit.figures[name] for unit in units], dtype=float)
    weights = np.array([unit.n for unit in units]) if by_row else None
    return mean_and_interval(values, weights=weights)
