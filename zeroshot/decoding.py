"""Second calls from the scores of an annotated file: smoothed, by cluster, assigned jointly.

These calls depend on which cells are in the file, unlike those of `zeroshot.annotate`, which are
kept beside them. All scores of the file are in memory, ten candidates a cell, but no counts.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from langcell.h5ad_output import check_in_place, in_place
from zeroshot.agreement import read_obs_column
from zeroshot.annotations import Slots
from zeroshot.assignment import assign_labels
from zeroshot.cell_scores import CellScores, read_scores, read_slot
from zeroshot.cluster_consensus import cluster_consensus, spread_rows
from zeroshot.clusters import make_clusters
from zeroshot.decode_options import AUTO, DecodeOptions
from zeroshot.neighbors import N_NEIGHBORS, neighbor_graph
from zeroshot.smoothing import smooth_scores

if TYPE_CHECKING:
    from anndata import AnnData

_MOVES = 50  # kinds of changed calls that are listed
_GRAPH = "obsp/connectivities"


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """What one decoder made of the scores.

    Attributes
    ----------
    decoder: "smooth", "cluster" or "assigned"
    scores: of each cell
    columns: of obs, by name
    report: how it was done and what changed, for uns
    """

    decoder: str
    scores: CellScores
    columns: dict[str, np.ndarray]
    report: dict[str, Any]


def decode(
    source: "AnnData | str | Path", options: DecodeOptions, *, overwrite: bool = False
) -> list[Decoded]:
    """Run the decoders that the options name and add their calls to an annotated source.

    Smoothing comes first. Clusters pool the smoothed scores where there are any, and labels are
    assigned to clusters where there are any.

    Parameters
    ----------
    source: an annotated AnnData, or h5ad file; obs gets <key>_<decoder>_label and
        <key>_<decoder>_ontology_term_id, with clusters also <key>_cluster; uns[<key>]["decoding"]
        says for each decoder how it was done and what changed
    options: which decoders, and how
    overwrite: replace what an earlier run left there; an AnnData always takes the new calls

    Raises
    ------
    ValueError, OSError
        With one line that says what is missing or does not fit; then nothing is changed.
    """
    slots = Slots(key=options.key_added)
    places = slots.decoded_paths(options.decoders)
    if isinstance(source, str | Path):
        check_in_place(Path(source), places, overwrite=overwrite)
    check_decoding(source, options)
    found = list(_decode(source, options, slots))
    if isinstance(source, str | Path):
        with in_place(Path(source), places) as writer:
            for each in found:
                for name, values in each.columns.items():
                    writer.set_obs(name, pd.Categorical(values))
                writer.set_uns(slots.decoding(each.decoder), each.report)
        return found
    for each in found:
        for name, values in each.columns.items():
            source.obs[name] = pd.Categorical(values)
        source.uns[slots.key].setdefault("decoding", {})[each.decoder] = each.report
    return found


def check_decoding(source: "AnnData | str | Path", options: DecodeOptions) -> None:
    """Refuse, before any work, columns of obs that a source lacks or that are empty."""
    for key in options.columns_read:
        if not np.any(read_obs_column(source, key) != ""):
            raise ValueError(f"column {key!r} of obs is empty: it has a name for no cell")


def _decode(
    source: "AnnData | str | Path", options: DecodeOptions, slots: Slots
) -> Iterator[Decoded]:
    raw = smoothed = read_scores(source, key=options.key_added)
    if options.smooth is not None:
        graph, described = _graph(source, slots)
        smoothed = smooth_scores(raw, graph, strength=options.smooth)
        report: dict[str, Any] = {"lambda": options.smooth, "graph": described}
        yield _decoded("smooth", raw, smoothed, slots, report)
    clusters = None
    if options.cluster_key is not None:
        clusters = _clusters(source, options, slots)
        consensus = cluster_consensus(smoothed, clusters, pooling=options.pooling)
        calls = pd.DataFrame([asdict(call) for call in consensus.calls])
        report = {"clusters": options.cluster_key, "pooling": options.pooling, "calls": calls}
        decoded = _decoded("cluster", raw, consensus.cells, slots, report)
        yield replace(decoded, columns={**decoded.columns, slots.cluster: clusters})
    if options.assign_within is not None:
        groups = read_obs_column(source, options.assign_within)
        scores = _assign(smoothed, groups, clusters, options)
        report = {
            "within": options.assign_within,
            "members": "cells" if clusters is None else "clusters",
            "worth": 0.0 if options.worth is None else options.worth,
            "n_unassigned": int(np.sum(scores.best < 0)),
        }
        yield _decoded("assigned", raw, scores, slots, report)


def _graph(source: "AnnData | str | Path", slots: Slots) -> tuple[Any, str]:
    """Return the graph of the file, or one made, and what it is."""
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
            f"{where} has no obsm[{slots.features!r}] to find neighbours in: name its cells again "
            "with langcell zeroshot, or make obsp['connectivities'] with scanpy.pp.neighbors"
        )
    return features


def _clusters(source: "AnnData | str | Path", options: DecodeOptions, slots: Slots) -> np.ndarray:
    if options.cluster_key == AUTO:
        return make_clusters(_features(source, slots), seed=options.seed)
    return read_obs_column(source, str(options.cluster_key))


def _assign(
    scores: CellScores, groups: np.ndarray, clusters: np.ndarray | None, options: DecodeOptions
) -> CellScores:
    """Assign labels to cells, or to the part of each cluster that is in each group."""
    if clusters is None:
        return assign_labels(scores, groups, worth=options.worth)
    inside = (groups != "") & (clusters != "")
    pairs = pd.MultiIndex.from_arrays([groups, clusters]).factorize()[0]
    names = np.where(inside, pairs.astype(str), "")
    parts = cluster_consensus(scores, names, pooling=options.pooling)
    cells = np.flatnonzero(parts.codes >= 0)
    first = cells[np.unique(parts.codes[cells], return_index=True)[1]]  # a cell of each part
    assigned = assign_labels(parts.clusters, groups[first], worth=options.worth)
    return spread_rows(assigned, parts.codes, scores.best_only(1))


def _decoded(
    decoder: str, raw: CellScores, scores: CellScores, slots: Slots, report: dict[str, Any]
) -> Decoded:
    label, term_id = slots.decoded_columns(decoder)
    return Decoded(
        decoder=decoder,
        scores=scores,
        columns={label: scores.names, term_id: scores.term_ids},
        report={**report, **changes(raw, scores)},
    )


def changes(raw: CellScores, decoded: CellScores) -> dict[str, Any]:
    """Count the cells whose call differs, and list the commonest moves."""
    changed = raw.best != decoded.best
    moves = pd.DataFrame({"from": raw.names[changed], "to": decoded.names[changed]})
    counted = moves.value_counts().rename("n_cells").reset_index()
    counted = counted.sort_values(["n_cells", "from", "to"], ascending=[False, True, True])
    return {
        "n_changed": int(changed.sum()),
        "share_changed": float(changed.mean()) if len(changed) else 0.0,
        "moves": counted.head(_MOVES).reset_index(drop=True),
    }
