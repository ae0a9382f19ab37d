"""Summarise each cluster or called type for the report."""

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
    """The most probable type that is no ancestor or descendant of a group's call.

    Attributes
    ----------
    name, term_id: name and id of the type
    lead: mean probability of the call with its descendants, minus that of the runner-up with its own
    """

    name: str
    term_id: str
    lead: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """A cluster, or the cells with the same call.

    Attributes
    ----------
    name: name of the cluster; the call if cells are grouped by call
    call, term_id: most frequent call and its Cell Ontology id
    n_cells: number of cells
    share_same: fraction of the cells with exactly this call
    share_lineage: fraction with this call, a descendant or an ancestor of it
    others: next most frequent calls of the group, with cell counts
    quartiles: quartiles of the confidence, or margin, of its cells
    share_backed_off: fraction of the cells whose call is broader than their best candidate
    share_unusual: fraction of the cells with a high out-of-distribution score, 0 without scores
    leaf_confidence: median confidence of the best candidate, NaN without confidence
    n_descendants: number of descendants of the call in the ontology
    spans: called descendants of the call that the call does not tell apart (none is an ancestor of
        another), those with most cells first
    share_descendants: fraction of all cells of the data that were called a descendant of the call
    leaf_types: most frequent best candidates, with cell counts
    consensus: consensus call of the cluster, '' if there is none
    consensus_confidence: confidence of the consensus call
    runner_up: None without scores, or if all scored types are ancestors or descendants
    evidence: genes behind the call; None if not computed
    contradiction: contradiction with the labels of the file; None without labels
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
    n_descendants: int
    spans: tuple[str, ...]
    share_descendants: float
    leaf_types: tuple[tuple[str, int], ...]
    consensus: str = ""
    consensus_confidence: float = float("nan")
    runner_up: RunnerUp | None = None
    evidence: GroupEvidence | None = None
    contradiction: Contradiction | None = None


def summarise_groups(
    cells: CalledCells, grouping: Grouping, unusual: np.ndarray, ontology: Ontology
) -> list[Group]:
    """Summarise each group; `unusual` is True for cells with a high out-of-distribution score."""
    ids = dict(zip(cells.labels, cells.term_ids, strict=True))
    sizes = dict(most_common(cells.term_ids))
    order = np.argsort(grouping.members, kind="stable")
    ends = np.cumsum(np.bincount(grouping.members, minlength=len(grouping.names)))
    groups = []
    for name, rows in zip(grouping.names, np.split(order, ends[:-1]), strict=True):
        calls = most_common(cells.labels[rows])
        call, n_same = calls[0]
        related = [n for label, n in calls if _same_lineage(ids[call], ids[label], ontology)]
        is_term = ids[call] in ontology.index
        descendants = ontology.descendants(ids[call]) if is_term else frozenset()
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
                n_descendants=len(descendants),
                spans=_spans(descendants, sizes, ontology),
                share_descendants=sum(sizes.get(each, 0) for each in descendants) / len(cells),
                leaf_types=tuple(most_common(cells.leaf_labels[rows])[:3]),
            )
        )
    return groups


def _spans(
    descendants: frozenset[str], sizes: Mapping[str, int], ontology: Ontology
) -> tuple[str, ...]:
    """Return the names of the broadest called types among descendants, without rare ones."""
    called = [term_id for term_id, n in sizes.items() if term_id in descendants and n >= FEW_CELLS]
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

    Return None if the source has no scores. Scores are read block by block.
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
    """Return the call of each group except unknown ones, for `explain_groups`."""
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
    """Return the probabilities that the call sums, and those that only its runner-up sums."""
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
    """Add the consensus call of each cluster; both arrays have one value per cell."""
    first = np.unique(grouping.members, return_index=True)[1]
    return [
        # Cells without a cluster have no consensus call.
        group
        if group.name == NO_CLUSTER
        else replace(group, consensus=str(called[row]), consensus_confidence=float(confidence[row]))
        for group, row in zip(groups, first, strict=True)
    ]


def with_contradictions(
    groups: Sequence[Group], found: Sequence[Contradiction | None]
) -> list[Group]:
    """Add the contradiction of labels and call to each group."""
    return [replace(group, contradiction=each) for group, each in zip(groups, found, strict=True)]


def with_evidence(groups: Sequence[Group], evidence: Mapping[str, GroupEvidence]) -> list[Group]:
    """Add the evidence genes of each group."""
    return [replace(group, evidence=evidence.get(group.name)) for group in groups]


def n_called_types(cells: CalledCells) -> int:
    """Return the number of different called types."""
    return len(np.unique(cells.labels[cells.status != ABSTAINED].astype(str)))
