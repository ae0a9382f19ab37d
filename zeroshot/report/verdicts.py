"""Which calls of a report to trust, and why, in plain words."""

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

_SPLIT_BELOW = 0.7  # share of a cluster's cells that are of the lineage of its call
_CLOSE_LEAD = 0.05
_MOST_OF_DATA = 0.5  # share of the cells: what is called kinds of it throughout tells little

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
    """How far the calls of a group can be used.

    Attributes
    ----------
    rating: 'trust' as they stand, 'broad' as the broad type they are, 'vague' where that does not
        tell types of the same data apart, 'check' before use, 'none' where nothing was called,
        'unrated' where calls have no confidence
    reasons: what speaks against them, or limits them; each a clause
    """

    rating: Rating
    reasons: tuple[str, ...] = ()

    @property
    def badge(self) -> str:
        """Word or two for a table."""
        return BADGES[self.rating]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a report says first.

    Attributes
    ----------
    headline: one sentence
    shares: of cells called confidently, backed off and unknown; None without confidence
    usable, broad, vague, doubtful: calls to use, to use as the broad type, too broad for use, and
        to check; those with most cells first
    n_unknown: cells without a call
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
    """A call in a list of the verdict; clusters with the same call are one entry."""

    call: str
    term_id: str
    n_cells: int
    clusters: tuple[str, ...]
    reasons: tuple[str, ...]


def rate(group: Group, *, n_called: int, has_confidence: bool, level: float) -> Trust:
    """Rate a group by what is known of it; `n_called` cells are in groups of the same call."""
    if group.call == UNKNOWN:
        return Trust(rating="none", reasons=("no type was likely enough; left unnamed on purpose",))
    doubts = []
    if n_called < FEW_CELLS:
        cells = "one cell" if n_called == 1 else f"{n_called} cells"
        doubts.append(f"only {cells}: may be chance")
    if group.share_lineage < _SPLIT_BELOW:
        doubts.append(
            f"split: {_percent(1 - group.share_lineage)} of its cells are called something else"
        )
    if group.share_unusual > 0.5:
        doubts.append(
            f"{_percent(group.share_unusual)} of its cells are unlike what the calls were learnt from"
        )
    if group.runner_up is not None and group.runner_up.lead < _CLOSE_LEAD:
        doubts.append(f"{group.runner_up.name} is as likely")
    if group.contradiction is not None and group.contradiction.share > _MOST_OF_LABELS:
        doubts.append(
            f"{_percent(group.contradiction.share)} of its labelled cells contradict it in the file, "
            f"mostly as {group.contradiction.label}"
        )
    if not has_confidence:
        return Trust(rating="check" if doubts else "unrated", reasons=tuple(doubts))
    if group.quartiles[1] < level:
        doubts.append(f"half of its cells are under a confidence of {group.quartiles[1]:.2f}")
    if doubts:
        return Trust(rating="check", reasons=tuple(doubts))
    if group.share_backed_off <= 0.5:
        return Trust(rating="trust")
    guesses = " or ".join(name for name, _ in group.leaf_types[:2] if name != group.call)
    sure = "" if np.isnan(group.leaf_confidence) else f" (confidence {group.leaf_confidence:.2f})"
    best = f"best guesses{sure}: {guesses}"
    if len(group.spans) > 1:
        first, second = group.spans[:2]
        return Trust(rating="vague", reasons=(f"does not tell {first} from {second}; {best}",))
    if group.share_below > _MOST_OF_DATA:
        held = f"{_percent(group.share_below)} of the cells here are kinds of it"
        return Trust(rating="vague", reasons=(f"{held}; {best}",))
    return Trust(rating="broad", reasons=(f"one of {group.n_kinds} kinds; {best}",))


def rate_all(groups: Sequence[Group], *, has_confidence: bool, level: float) -> list[Trust]:
    """Rate each group; of the groups of one call a small one is no chance."""
    n_called: Counter[str] = Counter()
    for group in groups:
        n_called[group.call] += group.n_cells
    return [
        rate(group, n_called=n_called[group.call], has_confidence=has_confidence, level=level)
        for group in groups
    ]


def judge(cells: CalledCells, groups: Sequence[Group], ratings: Sequence[Trust]) -> Verdict:
    """Put the ratings of all groups in words."""
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
            "These calls are the model's best guesses, without a calibrated confidence: compare "
            "them with known genes before you use any."
        )
    usable = sum(
        group.n_cells
        for group, trust in zip(groups, ratings, strict=True)
        if trust.rating in ("trust", "broad")
    )
    share = usable / len(cells)
    if share >= 0.995:
        return "Every call can be used, at the level of detail that is given."
    if share < 0.005:
        return "None of the calls should be used before a closer look."
    return (
        f"{_percent(share)} of the cells have a call that can be used at the level of detail given."
    )


def _listed(
    groups: Sequence[Group], ratings: Sequence[Trust], wanted: Sequence[Rating]
) -> tuple[Listed, ...]:
    """Return one entry a call; of several groups the reasons of the largest are given."""
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
    """Round a share so that neither 0% nor 100% stands for what is not."""
    return f"{min(max(round(100 * share), 1), 99) if 0 < share < 1 else round(100 * share)}%"
