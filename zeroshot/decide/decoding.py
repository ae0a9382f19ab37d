"""Second calls from the scores of an annotated file: smoothed, by cluster, or jointly assigned.

Unlike the calls of `langcell.annotate`, which are kept, second calls depend on the other cells of
the file. All scores and terms are held in memory, about fifty numbers per cell, but no counts.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from langcell.counts.obs_columns import read_obs_column
from langcell.output.h5ad_output import check_in_place, in_place
from ontology.graph import Ontology
from zeroshot.confidence.backoff import Calls
from zeroshot.decide.assignment import assign_labels
from zeroshot.decide.cluster_consensus import Consensus, broadcast_rows
from zeroshot.decide.clusters import make_clusters
from zeroshot.decide.knn_graph import N_NEIGHBORS, neighbor_graph
from zeroshot.decide.options import AUTO, DecodeOptions
from zeroshot.decide.second_calls import BackoffRule, TermProbabilities, read_terms
from zeroshot.results.annotations import Slots
from zeroshot.results.cell_scores import CellScores, read_scores, read_slot

if TYPE_CHECKING:
    from anndata import AnnData

_MOVES = 50  # listed (before, after) pairs of changed calls
_GRAPH = "obsp/connectivities"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Decoded:
    """Result of one decoder.

    Attributes
    ----------
    decoder: "smooth", "cluster" or "assigned"
    scores: decoded scores of each cell
    columns: obs columns by name
    report: parameters and changed calls, for uns
    """

    decoder: str
    scores: CellScores
    columns: dict[str, np.ndarray]
    report: dict[str, Any]

    def __repr__(self) -> str:
        return f"Decoded({self.decoder!r}, columns {', '.join(self.columns)})"


def decode(
    source: "AnnData | str | Path", options: DecodeOptions, *, overwrite: bool = False
) -> list[Decoded]:
    """Run the decoders of the options and add their calls to an annotated source.

    Smoothing comes first. Clusters pool the smoothed scores, if any, and labels are assigned to
    clusters, if any.

    Parameters
    ----------
    source: annotated AnnData or h5ad file; obs gets <key>_<decoder>_label,
        <key>_<decoder>_ontology_term_id and <key>_<decoder>_confidence, for calls that back off also
        <key>_<decoder>_leaf_label and its id, and with clusters <key>_cluster;
        uns[<key>]["decoding"] gets parameters and changed calls of each decoder
    options: decoders to run, and their parameters
    overwrite: replace second calls in a file; those in an AnnData are always replaced

    Raises
    ------
    ValueError, OSError
        If scores or columns are missing or do not match; then the source is not changed.
    """
    slots = Slots(key=options.key_added)
    paths = slots.decoded_paths(options.decoders)
    if isinstance(source, str | Path):
        check_in_place(Path(source), paths, overwrite=overwrite)
    check_decoding(source, options)
    found = list(_decode(source, options, slots))
    if isinstance(source, str | Path):
        with in_place(Path(source), paths) as writer:
            for each in found:
                for name, values in each.columns.items():
                    writer.set_obs(name, _column(values))
                writer.set_uns(slots.decoding(each.decoder), each.report)
        return found
    for each in found:
        for name, values in each.columns.items():
            source.obs[name] = _column(values)
        source.uns[slots.key].setdefault("decoding", {})[each.decoder] = each.report
    return found


def check_decoding(source: "AnnData | str | Path", options: DecodeOptions) -> None:
    """Raise, before any work, if obs columns are missing or empty."""
    for key in options.columns_read:
        if not np.any(read_obs_column(source, key) != ""):
            raise ValueError(
                f"obs[{key!r}] is empty: it has no value for any cell; name another column"
            )


def _column(values: np.ndarray) -> Any:
    return pd.Categorical(values) if values.dtype == object else values


def _decode(
    source: "AnnData | str | Path", options: DecodeOptions, slots: Slots
) -> Iterator[Decoded]:
    scores = read_scores(source, key=options.key_added)
    rule = BackoffRule.of(scores, read_slot(source, f"uns/{slots.key}"), Ontology.bundled())
    cells = TermProbabilities(scores, read_terms(source, rule.tree, key=options.key_added))
    before = read_obs_column(source, slots.label)
    if options.smooth is not None:
        graph, described = _graph(source, slots)
        cells = cells.smoothed(graph, strength=options.smooth)
        report: dict[str, Any] = {"lambda": options.smooth, "graph": described}
        columns = _columns(rule, rule(cells), cells.scores)
        yield _decoded("smooth", cells.scores, columns, before, slots, report)
    clusters = None
    if options.cluster_key is not None:
        clusters = _clusters(source, options, slots)
        consensus, pooled = cells.pooled(clusters, options.pooling)
        calls = rule(pooled)
        report = {
            "clusters": options.cluster_key,
            "pooling": options.pooling,
            "calls": _cluster_table(consensus, calls, rule),
        }
        columns = _columns(rule, _broadcast(calls, consensus, cells, rule), consensus.cells)
        found = _decoded("cluster", consensus.cells, columns, before, slots, report)
        yield replace(found, columns={**found.columns, slots.cluster: clusters})
    if options.assign_within is not None:
        groups = read_obs_column(source, options.assign_within)
        assigned, confidence = _assign(cells, groups, clusters, options, rule)
        report = {
            "within": options.assign_within,
            "members": "cells" if clusters is None else "clusters",
            "worth": 0.0 if options.worth is None else options.worth,
            "n_unassigned": int(np.sum(assigned.best < 0)),
        }
        columns = (assigned.names, assigned.term_ids, confidence)
        # Assigned labels do not back off: compare them with the best candidates.
        before = read_obs_column(source, slots.leaf_label)
        yield _decoded("assigned", assigned, columns, before, slots, report)


def _graph(source: "AnnData | str | Path", slots: Slots) -> tuple[Any, str]:
    """Return the kNN graph of the source, or a new one, and its description."""
    graph = read_slot(source, _GRAPH)
    if graph is not None:
        return graph, "obsp['connectivities']"
    features = _features(source, slots)
    return neighbor_graph(features), f"{N_NEIGHBORS} nearest in obsm[{slots.features!r}]"


def _features(source: "AnnData | str | Path", slots: Slots) -> np.ndarray:
    features = read_slot(source, f"obsm/{slots.features}")
    if features is None:
        where = source if isinstance(source, str | Path) else "the AnnData"
        raise ValueError(
            f"{where} has no obsm[{slots.features!r}] for a kNN graph or clusters: annotate it "
            "again, or compute obsp['connectivities'] with scanpy.pp.neighbors"
        )
    return features


def _clusters(source: "AnnData | str | Path", options: DecodeOptions, slots: Slots) -> np.ndarray:
    if options.cluster_key == AUTO:
        return make_clusters(_features(source, slots), seed=options.seed)
    return read_obs_column(source, str(options.cluster_key))


def _assign(
    cells: TermProbabilities,
    groups: np.ndarray,
    clusters: np.ndarray | None,
    options: DecodeOptions,
    rule: BackoffRule,
) -> tuple[CellScores, np.ndarray]:
    """Assign labels to cells, or to the cells of each cluster within each group.

    Return the scores of the assigned labels, and the confidence of each on its own, shape
    (n_cells,).
    """
    if clusters is None:
        assigned = assign_labels(cells.scores, groups, worth=options.worth)
        return assigned, rule(cells, assigned.best).leaf_confidence
    inside = (groups != "") & (clusters != "")
    pairs = pd.MultiIndex.from_arrays([groups, clusters]).factorize()[0]
    parts, pooled = cells.pooled(np.where(inside, pairs.astype(str), ""), options.pooling)
    members = np.flatnonzero(parts.codes >= 0)
    first = members[np.unique(parts.codes[members], return_index=True)[1]]  # one cell of each part
    assigned = assign_labels(parts.clusters, groups[first], worth=options.worth)
    calls = _broadcast(rule(pooled, assigned.best), parts, cells, rule)
    by_cell = broadcast_rows(assigned, parts.codes, cells.scores.best_only(1))
    return by_cell, calls.leaf_confidence


def _broadcast(
    calls: Calls, consensus: Consensus, cells: TermProbabilities, rule: BackoffRule
) -> Calls:
    """Return for each cell the call of its cluster, or of its own scores if it is in none."""
    outside = np.flatnonzero(consensus.codes < 0)
    rows = consensus.codes.copy()
    rows[outside] = len(calls) + np.arange(len(outside))
    own = rule(cells.take(outside))
    return Calls.joined([calls, own]).take(rows)


def _cluster_table(consensus: Consensus, calls: Calls, rule: BackoffRule) -> pd.DataFrame:
    """Return a table with a row per cluster: call, best candidate and runner-up."""
    table = pd.DataFrame([asdict(call) for call in consensus.calls])
    table = table.rename(columns={"label": "leaf_label", "term_id": "leaf_term_id"})
    labels, term_ids = rule.labels(calls)
    called = {"label": labels, "term_id": term_ids, "confidence": calls.confidence}
    for position, (name, values) in enumerate(called.items(), start=2):
        table.insert(position, name, values)
    return table


def _columns(rule: BackoffRule, calls: Calls, scores: CellScores) -> tuple[np.ndarray, ...]:
    """Return the obs columns of calls that back off, in the order of `Slots.decoded_columns`."""
    return (*rule.labels(calls), calls.confidence, scores.names, scores.term_ids)


def _decoded(
    decoder: str,
    scores: CellScores,
    columns: tuple[np.ndarray, ...],
    before: np.ndarray,
    slots: Slots,
    report: dict[str, Any],
) -> Decoded:
    return Decoded(
        decoder=decoder,
        scores=scores,
        columns=dict(zip(slots.decoded_columns(decoder), columns, strict=True)),
        report={**report, **changes(before, columns[0])},
    )


def changes(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Count the changed labels, and list the most frequent (from, to) pairs."""
    changed = before != after
    moves = pd.DataFrame({"from": before[changed], "to": after[changed]})
    counted = moves.value_counts().rename("n_cells").reset_index()
    counted = counted.sort_values(["n_cells", "from", "to"], ascending=[False, True, True])
    return {
        "n_changed": int(changed.sum()),
        "share_changed": float(changed.mean()) if len(changed) else 0.0,
        "moves": counted.head(_MOVES).reset_index(drop=True),
    }
