"""Rate how far each call of a report can be trusted, with reasons."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.report.groups import Group
from zeroshot.results.called_cells import (
    ABSTAINED,
    BACKED_OFF,
    CONFIDENT,
    FEW_CELLS,
    CalledCells,
)

_SPLIT_BELOW = 0.7  # fraction of a cluster's cells called its call, a descendant or an ancestor
_CLOSE_LEAD = 0.05
_MOST_OF_DATA = 0.5  # a call is too broad if more of all cells are called a descendant of it

_MOST_OF_LABELS = 0.5

Rating = Literal["trust", "broad", "vague", "check", "none", "unrated"]
BADGES: dict[Rating, str] = {
    "trust": "use",
    "broad": "use, broad",
    "vague": "too broad",
    "check": "check first",
    "none": "no call",
    "unrated": "not rated",
}


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far the call of a group can be used.

    Attributes
    ----------
    rating: 'trust' the call; 'broad', use it as a broad type; 'vague', too broad to separate types of
        the same data; 'check' before use; 'none', unknown; 'unrated', no confidence
    reasons: reasons for the rating; each a clause
    """

    rating: Rating
    reasons: tuple[str, ...] = ()

    @property
    def badge(self) -> str:
        """Short text of the rating."""
        return BADGES[self.rating]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The summary at the top of a report.

    Attributes
    ----------
    headline: one sentence
    shares: fractions of cells called the best candidate, backed off and unknown; None without
        confidence
    usable, broad, vague, doubtful: calls to use, to use as a broad type, too broad to use, and to
        check; those with most cells first
    n_unknown: number of unknown cells
    """

    headline: str
    shares: tuple[float, float, float] | None
    usable: tuple["Listed", ...]
    broad: tuple["Listed", ...]
    vague: tuple["Listed", ...]
    doubtful: tuple["Listed", ...]
    n_unknown: int


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A call in a list of the verdict; clusters with the same call are merged."""

    call: str
    term_id: str
    n_cells: int
    clusters: tuple[str, ...]
    reasons: tuple[str, ...]


def rate(group: Group, *, n_called: int, has_confidence: bool, threshold: float) -> Trust:
    """Rate the call of a group; `n_called` cells in all groups have the same call."""
    if group.call == UNKNOWN:
        return Trust(rating="none", reasons=("no type has enough confidence",))
    doubts = []
    if n_called < FEW_CELLS:
        cells = "one cell" if n_called == 1 else f"{n_called} cells"
        doubts.append(f"only {cells}: may be chance")
    if group.share_lineage < _SPLIT_BELOW:
        doubts.append(
            f"split: {_percent(1 - group.share_lineage)} of its cells are called another type"
        )
    if group.share_unusual > 0.5:
        doubts.append(f"{_percent(group.share_unusual)} of its cells are unlike the training cells")
    if group.runner_up is not None and group.runner_up.lead < _CLOSE_LEAD:
        doubts.append(f"{group.runner_up.name} is almost as probable")
    if group.contradiction is not None and group.contradiction.share > _MOST_OF_LABELS:
        doubts.append(
            f"the labels of {_percent(group.contradiction.share)} of its labelled cells contradict "
            f"it, mostly {group.contradiction.label}"
        )
    if not has_confidence:
        return Trust(rating="check" if doubts else "unrated", reasons=tuple(doubts))
    if group.quartiles[1] < threshold:
        doubts.append(f"low median confidence ({group.quartiles[1]:.2f})")
    if doubts:
        return Trust(rating="check", reasons=tuple(doubts))
    if group.share_backed_off <= 0.5:
        return Trust(rating="trust")
    guesses = " or ".join(name for name, _ in group.leaf_types[:2] if name != group.call)
    confidence = group.leaf_confidence
    median = "" if np.isnan(confidence) else f" (confidence {confidence:.2f})"
    best = f"best candidates{median}: {guesses}"
    if len(group.spans) > 1:
        first, second = group.spans[:2]
        return Trust(rating="vague", reasons=(f"does not tell {first} from {second}; {best}",))
    if group.share_descendants > _MOST_OF_DATA:
        subtypes = f"{_percent(group.share_descendants)} of all cells are called subtypes of it"
        return Trust(rating="vague", reasons=(f"{subtypes}; {best}",))
    return Trust(rating="broad", reasons=(f"one of {group.n_descendants} subtypes; {best}",))


def rate_all(groups: Sequence[Group], *, has_confidence: bool, threshold: float) -> list[Trust]:
    """Rate each group; cells of groups with the same call are counted together."""
    n_called: Counter[str] = Counter()
    for group in groups:
        n_called[group.call] += group.n_cells
    return [
        rate(
            group,
            n_called=n_called[group.call],
            has_confidence=has_confidence,
            threshold=threshold,
        )
        for group in groups
    ]


def make_verdict(cells: CalledCells, groups: Sequence[Group], ratings: Sequence[Trust]) -> Verdict:
    """Summarise the ratings of all groups."""
    status = cells.status
    shares = tuple(float(np.mean(status == each)) for each in (CONFIDENT, BACKED_OFF, ABSTAINED))
    return Verdict(
        headline=_headline(cells, groups, ratings),
        shares=(shares[0], shares[1], shares[2]) if cells.has_confidence else None,
        usable=_listed(groups, ratings, ("trust",)),
        broad=_listed(groups, ratings, ("broad",)),
        vague=_listed(groups, ratings, ("vague",)),
        doubtful=_listed(groups, ratings, ("check",)),
        n_unknown=int(np.sum(status == ABSTAINED)),
    )


def _headline(cells: CalledCells, groups: Sequence[Group], ratings: Sequence[Trust]) -> str:
    if not cells.has_confidence:
        return (
            "These calls are the model's best candidates, without a calibrated confidence: check "
            "them against known marker genes before you use them."
        )
    usable = sum(
        group.n_cells
        for group, trust in zip(groups, ratings, strict=True)
        if trust.rating in ("trust", "broad")
    )
    share = usable / len(cells)
    if share >= 0.995:
        return "All calls can be used, at the level of detail given."
    if share < 0.005:
        return "Check all calls before you use them."
    return (
        f"{_percent(share)} of the cells have a call that can be used at the level of detail given."
    )


def _listed(
    groups: Sequence[Group], ratings: Sequence[Trust], wanted: Sequence[Rating]
) -> tuple[Listed, ...]:
    """Return one entry per call, with the reasons of its largest group."""
    merged: dict[str, list[Listed]] = {}
    for group, trust in zip(groups, ratings, strict=True):
        if trust.rating not in wanted:
            continue
        clusters = (group.name,) if group.name != group.call else ()
        entry = Listed(
            call=group.call,
            term_id=group.term_id,
            n_cells=group.n_cells,
            clusters=clusters,
            reasons=trust.reasons,
        )
        merged.setdefault(group.call, []).append(entry)
    joined = [_joined(entries) for entries in merged.values()]
    return tuple(sorted(joined, key=lambda each: (-each.n_cells, each.call)))


def _joined(entries: Sequence[Listed]) -> Listed:
    return replace(
        max(entries, key=lambda each: each.n_cells),
        n_cells=sum(each.n_cells for each in entries),
        clusters=tuple(name for each in entries for name in each.clusters),
    )


def _percent(share: float) -> str:
    """Format a fraction; 0% and 100% are used only if exact."""
    return f"{min(max(round(100 * share), 1), 99) if 0 < share < 1 else round(100 * share)}%"
