"""What a report says of each cluster or called type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from ontology.graph import Ontology
from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.evidence.group_evidence import (
    GroupCall,
    GroupEvidence,
    candidate_keys,
    candidates_below,
)
from zeroshot.labels.candidates import candidate_key
from zeroshot.report.agreement import Contradiction
from zeroshot.results.annotated_file import AnnotatedSource
from zeroshot.results.called_cells import (
    ABSTAINED,
    FEW_CELLS,
    NO_CLUSTER,
    CalledCells,
    Grouping,
    most_common,
)


@dataclass(frozen=True, kw_only=True)
class RunnerUp:
    """The likeliest type of another lineage than a group's call.

    Attributes
    ----------
    name, term_id: of the type
    lead: mean probability of the call and its kinds, less that of the runner-up and its kinds
    """

    name: str
    term_id: str
    lead: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """A cluster, or the cells that were called the same.

    Attributes
    ----------
    name: of the cluster; the call where cells are grouped by call
    call, term_id: the most frequent call and its Cell Ontology id
    n_cells: how many cells there are
    share_same: share of the cells that have this very call
    share_lineage: share that have it, a kind of it, or what it is a kind of
    others: the next most frequent calls of the group, with their cells
    quartiles: of the certainty (confidence, or margin) of its cells
    share_backed_off: share of the cells whose call is broader than their best single type
    share_unusual: share of the cells with a high out-of-distribution score, 0 without such scores
    leaf_confidence: median confidence in the best single type, NaN where there is none
    n_kinds: how many kinds of the call the ontology has
    spans: other types that were called in the data, kinds of the call and not of each other: what
        the call does not tell apart, those with most cells first
    share_below: share of all cells of the data that were called a kind of the call
    leaf_types: the most frequent best single types, with their cells
    consensus: what the cluster was called as a whole, '' where that was not asked for
    consensus_confidence: of that call
    runner_up: None where there are no scores, or all types that were scored are of one lineage
    evidence: genes behind the call; None where they were not looked for
    contradiction: what labels of the file have against the call; None without labels
    """

    name: str
    call: str
    term_id: str
    n_cells: int
    share_same: float
    share_lineage: float
    others: tuple[tuple[str, int], ...]
    quartiles: tuple[float, float, float]
    share_backed_off: float
    share_unusual: float
    leaf_confidence: float
    n_kinds: int
    spans: tuple[str, ...]
    share_below: float
    leaf_types: tuple[tuple[str, int], ...]
    consensus: str = ""
    consensus_confidence: float = float("nan")
    runner_up: RunnerUp | None = None
    evidence: GroupEvidence | None = None
    contradiction: Contradiction | None = None


def summarise_groups(
    cells: CalledCells, grouping: Grouping, unusual: np.ndarray, ontology: Ontology
) -> list[Group]:
    """Summarise each group of cells; `unusual` marks cells of a high out-of-distribution score."""
    ids = dict(zip(cells.labels, cells.term_ids, strict=True))
    sizes = dict(most_common(cells.term_ids))
    order = np.argsort(grouping.members, kind="stable")
    ends = np.cumsum(np.bincount(grouping.members, minlength=len(grouping.names)))
    groups = []
    for name, rows in zip(grouping.names, np.split(order, ends[:-1]), strict=True):
        calls = most_common(cells.labels[rows])
        call, n_same = calls[0]
        related = [n for label, n in calls if _same_lineage(ids[call], ids[label], ontology)]
        kinds = ontology.descendants(ids[call]) if ids[call] in ontology.index else frozenset()
        groups.append(
            Group(
                name=name,
                call=call,
                term_id=ids[call],
                n_cells=len(rows),
                share_same=n_same / len(rows),
                share_lineage=max(n_same, sum(related)) / len(rows),
                others=tuple(calls[1:4]),
                quartiles=_quartiles(cells.certainty[rows]),
                share_backed_off=float(np.mean(cells.labels[rows] != cells.leaf_labels[rows])),
                share_unusual=float(np.mean(unusual[rows])),
                leaf_confidence=float(np.median(cells.leaf_confidence[rows])),
                n_kinds=len(kinds),
                spans=_spans(kinds, sizes, ontology),
                share_below=sum(sizes.get(kind, 0) for kind in kinds) / len(cells),
                leaf_types=tuple(most_common(cells.leaf_labels[rows])[:3]),
            )
        )
    return groups


def _spans(kinds: frozenset[str], sizes: Mapping[str, int], ontology: Ontology) -> tuple[str, ...]:
    """Name the called types among some kinds that are the broadest there and not rare."""
    called = [term_id for term_id, n in sizes.items() if term_id in kinds and n >= FEW_CELLS]
    broadest = [each for each in called if not ontology.ancestors(each) & set(called)]
    return tuple(ontology.terms[term_id].name for term_id in broadest)


def _quartiles(values: np.ndarray) -> tuple[float, float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return (0.0, 0.0, 0.0)
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    return (float(low), float(middle), float(high))


def _same_lineage(first: str, second: str, ontology: Ontology) -> bool:
    known = first in ontology.index and second in ontology.index
    return known and ontology.is_comparable(first, second)


def mean_scores(source: AnnotatedSource, slot: str, grouping: Grouping) -> np.ndarray | None:
    """Return the mean probability of each candidate in each group, (n_groups, n_candidates).

    None where the source has no scores. Scores are read block by block.
    """
    if slot not in source.slots:
        return None
    n_groups = len(grouping.names)
    total: np.ndarray | None = None
    for start, block in source.blocks(slot):
        groups = grouping.members[start : start + block.shape[0]]
        one_hot = sparse.csr_matrix(
            (np.ones(len(groups)), (groups, np.arange(len(groups)))), (n_groups, len(groups))
        )
        part = (one_hot @ block.astype(np.float64)).toarray()
        total = part if total is None else total + part
    sizes = np.bincount(grouping.members, minlength=n_groups)
    return None if total is None else total / np.maximum(sizes, 1)[:, None]


def with_runners_up(
    groups: Sequence[Group], means: np.ndarray, cells: CalledCells, ontology: Ontology
) -> list[Group]:
    """Add the runner-up of each group whose call is a term of the ontology."""
    keys, names = candidate_keys(cells.details), list(map(str, cells.details["candidate_names"]))
    found = []
    for group, scores in zip(groups, means, strict=True):
        rival = _rival(group, scores, keys, ontology)
        if rival is not None:
            term_id = keys[rival] if keys[rival] in ontology.index else ""
            runner_up = RunnerUp(name=names[rival], term_id=term_id, lead=0.0)
            own, other = _weights(replace(group, runner_up=runner_up), scores, keys, ontology)
            lead = float(own.sum() - other.sum())
            group = replace(group, runner_up=replace(runner_up, lead=lead))
        found.append(group)
    return found


def group_calls(
    groups: Sequence[Group], means: np.ndarray, cells: CalledCells, ontology: Ontology
) -> list[GroupCall]:
    """Return what each group but the unknown is called, as evidence is looked for."""
    keys = candidate_keys(cells.details)
    calls = []
    for group, scores in zip(groups, means, strict=True):
        if group.call == UNKNOWN:
            continue
        own, other = _weights(group, scores, keys, ontology)
        rival = group.runner_up
        calls.append(
            GroupCall(
                group=group.name,
                call=group.call,
                term_id=group.term_id,
                weights=own,
                rival=rival.name if rival else "",
                rival_id=rival.term_id if rival else "",
                rival_weights=other if rival else None,
            )
        )
    return calls


def _weights(
    group: Group, scores: np.ndarray, keys: Sequence[str], ontology: Ontology
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities that a call sums, and those of its runner-up without them."""
    own = candidates_below(candidate_key(group.term_id, group.call), keys, ontology)
    other = np.zeros(len(keys), dtype=bool)
    if group.runner_up is not None:
        rival = candidate_key(group.runner_up.term_id, group.runner_up.name)
        other = candidates_below(rival, keys, ontology) & ~own
    return scores * own, scores * other


def _rival(group: Group, scores: np.ndarray, ids: Sequence[str], ontology: Ontology) -> int | None:
    if group.call == UNKNOWN or group.term_id not in ontology.index:
        return None
    for candidate in np.argsort(-scores, kind="stable"):
        if scores[candidate] <= 0:
            return None
        term_id = ids[candidate]
        if term_id not in ontology.index or not ontology.is_comparable(term_id, group.term_id):
            return int(candidate)
    return None


def with_consensus(
    groups: Sequence[Group], grouping: Grouping, called: np.ndarray, confidence: np.ndarray
) -> list[Group]:
    """Add what each cluster was called as a whole; both arrays hold it for each cell."""
    first = np.unique(grouping.members, return_index=True)[1]
    return [
        # Cells of no cluster were called alone.
        group
        if group.name == NO_CLUSTER
        else replace(group, consensus=str(called[row]), consensus_confidence=float(confidence[row]))
        for group, row in zip(groups, first, strict=True)
    ]


def with_contradictions(
    groups: Sequence[Group], found: Sequence[Contradiction | None]
) -> list[Group]:
    """Add what the labels of the file have against each group's call."""
    return [replace(group, contradiction=each) for group, each in zip(groups, found, strict=True)]


def with_evidence(groups: Sequence[Group], evidence: Mapping[str, GroupEvidence]) -> list[Group]:
    """Add the genes behind the call of each group."""
    return [replace(group, evidence=evidence.get(group.name)) for group in groups]


def n_called_types(cells: CalledCells) -> int:
    """Count the different types that cells were called."""
    return len(np.unique(cells.labels[cells.status != ABSTAINED].astype(str)))
