"""Explain the calls of groups of cells in an annotated file with gene attributions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.checkpoints.checkpoint import resolve_checkpoint
from langcell.counts.reader import open_counts
from langcell.model.langcell import LangCell
from langcell.tokens.tokenizer import RankTokenizer
from ontology.graph import Ontology
from zeroshot.evidence.explain import Evidence
from zeroshot.evidence.head_evidence import HeadDirections, adapted_model, check_made_by
from zeroshot.evidence.target_scores import TargetCall
from zeroshot.evidence.targets import cluster_targets, read_target_cells
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.labels.candidates import FREE_TEXT
from zeroshot.labels.queries import Query, query_features, read_queries

if TYPE_CHECKING:
    from anndata import AnnData

_MAX_CELLS = 500  # in all groups together
_MAX_PER_GROUP, _MIN_PER_GROUP = 25, 4


@dataclass(frozen=True, kw_only=True)
class EvidenceGene:
    """A gene that raises or lowers a call.

    Attributes
    ----------
    symbol: gene symbol
    effect: log-odds lost without the gene, mean over cells; negative if it lowers the call
    inside: fraction of the group's cells that express it
    outside: median of this fraction over the other groups, NaN if there are none
    """

    symbol: str
    effect: float
    inside: float
    outside: float


@dataclass(frozen=True, kw_only=True)
class NamedMarker:
    """A marker from the definition of the called type; `agrees` is "yes", "no" or "unknown"."""

    name: str
    expected: str
    agrees: str


@dataclass(frozen=True, kw_only=True)
class GroupEvidence:
    """Evidence for the call of a group.

    Attributes
    ----------
    raising, lowering: genes that raise and lower the call, strongest first
    leading, trailing: genes that favour the call over the runner-up, and the runner-up over the call
    markers: markers in the definition of the called type
    """

    raising: tuple[EvidenceGene, ...]
    lowering: tuple[EvidenceGene, ...]
    leading: tuple[EvidenceGene, ...]
    trailing: tuple[EvidenceGene, ...]
    markers: tuple[NamedMarker, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupCall:
    """The call of a group with the probabilities of the candidates behind it.

    After back-off a call sums the probabilities of its descendants. Its direction is the mean of
    their directions, weighted by probability.

    Attributes
    ----------
    group: name of the group
    call, term_id: label of the call and its id, '' for free text
    weights: probability of each candidate that the call sums, 0 for others, shape (n_candidates,)
    rival, rival_id, rival_weights: the same for the runner-up; '' and None without one
    """

    group: str
    call: str
    term_id: str
    weights: np.ndarray
    rival: str = ""
    rival_id: str = ""
    rival_weights: np.ndarray | None = None


def explain_groups(
    source: "AnnData | str | Path",
    calls: Sequence[GroupCall],
    members: np.ndarray,
    details: Mapping[str, Any],
    *,
    ontology: Ontology,
    model: LangCell | str | Path | None = None,
    head: FewShotHead | None = None,
    n_genes: int = 6,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, GroupEvidence]:
    """Explain the calls of groups of cells.

    Up to 25 cells per group are read, evenly spaced over the file, fewer if there are many groups.
    Memory and time do not grow with the file.

    Parameters
    ----------
    source: annotated h5ad or AnnData with the counts that were annotated
    calls: calls of the groups to explain
    members: group name of each cell, '' for none, shape (n_cells,)
    details: entry of uns that annotation wrote; names the model, the candidates and the counts
    ontology: ontology of the calls
    model: model that made the calls, if not found under the name in `details`
    head: few-shot head that made the calls, if one did
    n_genes: number of genes of each kind
    progress: called with the number of cells explained so far and in total

    Returns
    -------
    Evidence by group name

    Raises
    ------
    ValueError, OSError
        If the counts or the model are not available; the message is one line.
    """
    check_made_by(details, head)
    model = annotating_model(details, model)
    if head is not None:
        model = adapted_model(head, model)
    parameters = details.get("parameters", {})
    layer = details.get("counts_source")
    max_cells = int(
        np.clip(_MAX_CELLS // max(1, len(set(members))), _MIN_PER_GROUP, _MAX_PER_GROUP)
    )
    target_calls = _target_calls(calls, _directions(calls, details, ontology, model, head))
    with open_counts(
        source,
        layer=None if layer is None else str(layer).removeprefix("layers/"),
        allow_normalized=bool(parameters.get("allow_normalized", False)),
    ) as matrix:
        tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes + 1)
        targets = cluster_targets(members, max_cells=max_cells)
        target_cells = read_target_cells(matrix, tokenizer, targets)
    evidence = Evidence(model, ontology, target_cells, is_compared=True, n_genes=n_genes)
    found, n_done = {}, 0
    for target in targets:
        if target.name in target_calls:
            positions = target_cells.positions(target)
            tokens = [target_cells.tokens.cell(position) for position in positions]
            rows = list(evidence.rows(target, tokens, target_calls[target.name]))
            found[target.name] = _group_evidence(rows)
        n_done += len(target.rows)
        if progress is not None:
            progress(n_done, len(target_cells.rows))
    return found


def annotating_model(
    details: Mapping[str, Any], given: LangCell | str | Path | None = None
) -> LangCell:
    """Load the model that made the calls of a file, without downloading.

    Raises
    ------
    ValueError, OSError
        If the model is not found locally, or its weights differ from those that made the calls.
    """
    model = given if given is not None else str(details.get("model", ""))
    if not model:
        raise ValueError("the file does not say which model made the calls")
    if not isinstance(model, LangCell):
        try:
            folder = resolve_checkpoint(model, download=False)
        except OSError as error:
            raise OSError(f"the model that made the calls is not available: {error}") from error
        model = LangCell.from_pretrained(folder)
    wanted = str(details.get("model_sha256", ""))
    if model.sha256 != wanted:
        raise ValueError(
            f"the calls were made with other weights (sha256 {wanted[:12] or 'not recorded'}) than "
            f"those of the model (sha256 {model.sha256[:12] or 'not recorded'})"
        )
    return model


def _directions(
    calls: Sequence[GroupCall],
    details: Mapping[str, Any],
    ontology: Ontology,
    model: LangCell,
    head: FewShotHead | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the direction of each candidate in feature space, and with a head in rank space."""
    keys = candidate_keys(details)
    weights = [w for each in calls for w in (each.weights, each.rival_weights) if w is not None]
    is_used = np.any(np.reshape(weights, (-1, len(keys))) > 0, axis=0)
    features = np.zeros((len(keys), model.config.embedding_dim), dtype=np.float32)
    if is_used.any() and (head is None or head.text_weight):
        asked = read_queries([keys[row] for row in np.flatnonzero(is_used)], ontology)
        features[is_used] = query_features(asked, model)
    if head is None:
        return features, None
    found = HeadDirections.of(head, features, model)
    return found.features, found.ranks


def _target_calls(
    calls: Sequence[GroupCall], directions: tuple[np.ndarray, np.ndarray | None]
) -> dict[str, TargetCall]:
    """Return the call of each group with its directions, by group name."""
    return {each.group: _target_call(each, *directions) for each in calls if each.weights.any()}


def _target_call(call: GroupCall, features: np.ndarray, ranks: np.ndarray | None) -> TargetCall:
    sides = [(call.call, call.term_id, call.weights)]
    if call.rival_weights is not None and call.rival_weights.any():
        sides.append((call.rival, call.rival_id, call.rival_weights))
    label, *others = (
        Query(words=name, term_id=term_id, name=name, text="") for name, term_id, _ in sides
    )
    shares = [weights / weights.sum() for _, _, weights in sides]
    return TargetCall(
        label=label,
        against=others[0] if others else None,
        features=tuple((each @ features).astype(np.float32) for each in shares),
        ranks=() if ranks is None else tuple(each @ ranks for each in shares),
    )


def candidate_keys(details: Mapping[str, Any]) -> list[str]:
    """Return the candidates of the annotation: term ids, or "text:" and the words."""
    return [str(each) for each in details["candidate_ids"]]


def candidates_below(key: str, keys: Sequence[str], ontology: Ontology) -> np.ndarray:
    """Return which candidates are `key` or a descendant of it, bool, shape (n_candidates,).

    All False if the ontology release does not have the term `key`.
    """
    if key.startswith(FREE_TEXT):
        return np.array([each == key for each in keys])
    matching = ontology.descendants(key) | {key} if key in ontology.index else frozenset()
    return np.array([each in matching for each in keys])


def _group_evidence(rows: Sequence[Mapping[str, Any]]) -> GroupEvidence:
    """Group the rows of a target by kind of evidence."""

    def genes(kind: str, sign: int) -> tuple[EvidenceGene, ...]:
        return tuple(
            EvidenceGene(
                symbol=row["gene"],
                effect=float(row["effect"]),
                inside=float(row["share_expressed"]),
                outside=float(row["share_elsewhere"]),
            )
            for row in rows
            if row["evidence"] == kind and sign * row["effect"] > 0
        )

    return GroupEvidence(
        raising=genes("label", 1),
        lowering=genes("label", -1),
        leading=genes("against", 1),
        trailing=genes("against", -1),
        markers=tuple(
            NamedMarker(name=row["marker"], expected=row["expected"], agrees=row["agrees"])
            for row in rows
            if row["evidence"] == "marker"
        ),
    )
