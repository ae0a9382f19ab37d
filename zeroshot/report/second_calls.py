"""Describe second calls for the report: how each was made, and what it changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroshot.results.annotations import DECODERS

_MOVES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class SecondCalls:
    """The calls of one decoder.

    Attributes
    ----------
    name: part of its column names: "smooth", "cluster" or "assigned"
    described: description of the method
    n_changed, share_changed: number and fraction of cells whose call changed
    moves: most frequent changes, as (before, after, n_cells)
    """

    name: str
    described: str
    n_changed: int
    share_changed: float
    moves: tuple[tuple[str, str, int], ...]


def second_calls(details: Mapping[str, Any]) -> tuple[SecondCalls, ...]:
    """Return the results that decoders wrote to uns; () if none ran."""
    noted = details.get("decoding", {})
    found = []
    for name in DECODERS:
        if name not in noted:
            continue
        report = noted[name]
        moves = report["moves"].head(_MOVES_SHOWN)
        found.append(
            SecondCalls(
                name=name,
                described=_described(name, report),
                n_changed=int(report["n_changed"]),
                share_changed=float(report["share_changed"]),
                moves=tuple(
                    (str(before), str(after), int(n))
                    for before, after, n in zip(
                        moves["from"], moves["to"], moves["n_cells"], strict=True
                    )
                ),
            )
        )
    return tuple(found)


def _described(name: str, report: Mapping[str, Any]) -> str:
    if name == "smooth":
        return (
            f"Scores smoothed over neighbouring cells (lambda {float(report['lambda']):g}, graph: "
            f"{report['graph']})"
        )
    if name == "cluster":
        n_clusters = len(report["calls"])
        key = "computed by langcell" if report["clusters"] == "auto" else report["clusters"]
        return (
            f"One call for each of {n_clusters} clusters ({key}), from the mean scores of its cells"
        )
    n_unassigned = int(report["n_unassigned"])
    return (
        f"Each label assigned once within each value of {report['within']}, to {report['members']}; "
        f"{n_unassigned:,} cells have none. Compared with the best candidates, without back-off"
    )
