"""Genes behind the calls of groups of cells in an annotated file, by attribution."""

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
from zeroshot.evidence.head_evidence import HeadDirections, adapted, check_made_by
from zeroshot.evidence.target_scores import TargetCall
from zeroshot.evidence.targets import cluster_targets, read_target_cells
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.labels.candidates import FREE_TEXT
from zeroshot.labels.queries import Query, query_features, read_queries

if TYPE_CHECKING:
    from anndata import AnnData

_MOST_CELLS = 500  # of all groups together
_MOST_OF_GROUP, _FEWEST_OF_GROUP = 25, 4


@dataclass(frozen=True, kw_only=True)
class EvidenceGene:
    """A gene that speaks for a call or against it.

    Attributes
    ----------
    symbol: of the gene
    effect: log-odds that are lost without it, mean over the cells; negative if it lowers the call
    inside: share of the group's cells that express it
    outside: median of the same over the other groups, NaN where there are none
    """

    symbol: str
    effect: float
    inside: float
    outside: float


@dataclass(frozen=True, kw_only=True)
class NamedMarker:
    """A marker that the definition of a call names; `agrees` is "yes", "no" or "unknown"."""

    name: str
    expected: str
    agrees: str


@dataclass(frozen=True, kw_only=True)
class GroupEvidence:
    """Why a group is called what it is.

    Attributes
    ----------
    raising, lowering: genes of the call, the strongest first
    leading, trailing: genes of its lead over the runner-up, and those that speak for that
    markers: of the definition
    """

    raising: tuple[EvidenceGene, ...]
    lowering: tuple[EvidenceGene, ...]
    leading: tuple[EvidenceGene, ...]
    trailing: tuple[EvidenceGene, ...]
    markers: tuple[NamedMarker, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupCall:
    """What a group is called, and by which candidates.

    A call after back-off rests on all candidates below it, and so does its evidence: its direction
    is the mean of theirs, weighed by what each has of the probability.

    Attributes
    ----------
    group: its name
    call, term_id: what it is called; the id '' for free text
    weights: probability of each candidate that the call sums, shape (n_candidates,)
    rival, rival_id, rival_weights: the same of the runner-up; '' and None for none
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
    """Find the evidence on the calls of groups.

    Of each group up to 25 cells are read, evenly spaced over the file, fewer where there are many
    groups: neither memory nor time grow with the file.

    Parameters
    ----------
    source: an annotated h5ad, or AnnData, with the counts that were annotated
    calls: of the groups to explain
    members: group of each cell by its name, '' for none, shape (n_cells,)
    details: what annotating wrote to uns: names the model, the candidates and the counts
    ontology: of the calls
    model: that made the calls, where it is not under the name that `details` have
    head: that made the calls, where one did
    n_genes: of each kind
    progress: called with the number of cells explained and of all that are read

    Returns
    -------
    By name of the group

    Raises
    ------
    ValueError, OSError
        With one line that says why there is no evidence: counts or model are not at hand.
    """
    check_made_by(details, head)
    model = annotating_model(details, model)
    if head is not None:
        model = adapted(head, model)
    parameters = details.get("parameters", {})
    layer = details.get("counts_source")
    most = int(np.clip(_MOST_CELLS // max(1, len(set(members))), _FEWEST_OF_GROUP, _MOST_OF_GROUP))
    target_scorer = _opinions(calls, _directions(calls, details, ontology, model, head))
    with open_counts(
        source,
        layer=None if layer is None else str(layer).removeprefix("layers/"),
        allow_normalized=bool(parameters.get("allow_normalized", False)),
    ) as matrix:
        tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes + 1)
        read = read_target_cells(matrix, tokenizer, cluster_targets(members, max_cells=most))
    evidence = Evidence(model, ontology, read, is_compared=True, n_genes=n_genes)
    found, n_done = {}, 0
    for target in read.targets:
        if target.name in target_scorer:
            tokens = [read.tokens.cell(place) for place in read.places(target)]
            rows = list(evidence.rows(target, tokens, target_scorer[target.name]))
            found[target.name] = _group_evidence(rows)
        n_done += len(target.rows)
        if progress is not None:
            progress(n_done, len(read.rows))
    return found


def annotating_model(
    details: Mapping[str, Any], given: LangCell | str | Path | None = None
) -> LangCell:
    """Load the model that made the calls of a file; nothing is fetched from a network.

    Raises
    ------
    ValueError, OSError
        If it is not at hand, or has other weights by now.
    """
    model = given if given is not None else str(details.get("model", ""))
    if not model:
        raise ValueError("the file does not say which model made the calls")
    if not isinstance(model, LangCell):
        try:
            folder = resolve_checkpoint(model, download=False)
        except OSError as error:
            raise OSError(f"the model that made the calls is not at hand: {error}") from error
        model = LangCell.from_pretrained(folder)
    wanted = str(details.get("model_sha256", ""))
    if model.sha256 != wanted:
        raise ValueError(
            f"the calls were made with other weights ({wanted[:12] or 'of no name'}) than those at "
            f"hand ({model.sha256[:12] or 'of no name'})"
        )
    return model


def _directions(
    calls: Sequence[GroupCall],
    details: Mapping[str, Any],
    ontology: Ontology,
    model: LangCell,
    head: FewShotHead | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return those of all candidates among features, and of a head those among ranks."""
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


def _opinions(
    calls: Sequence[GroupCall], directions: tuple[np.ndarray, np.ndarray | None]
) -> dict[str, TargetCall]:
    """Return what each group is called, with the directions that its candidates make."""
    return {each.group: _opinion(each, *directions) for each in calls if each.weights.any()}


def _opinion(call: GroupCall, features: np.ndarray, ranks: np.ndarray | None) -> TargetCall:
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
    """Return the candidates that annotating chose from: ids, or "text:" and words."""
    return [str(each) for each in details["candidate_ids"]]


def candidates_below(key: str, keys: Sequence[str], ontology: Ontology) -> np.ndarray:
    """Tell which candidates are another or a kind of it, bool, shape (n_candidates,).

    Files of other releases may name terms that the ontology does not have: they are below nothing.
    """
    if key.startswith(FREE_TEXT):
        return np.array([each == key for each in keys])
    kinds = ontology.descendants(key) | {key} if key in ontology.index else frozenset()
    return np.array([each in kinds for each in keys])


def _group_evidence(rows: Sequence[Mapping[str, Any]]) -> GroupEvidence:
    """Sort the rows of a target by what they say."""

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
