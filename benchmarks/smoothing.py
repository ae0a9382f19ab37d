"""What cluster consensus and graph smoothing change: `python -m benchmarks.smoothing`.

Every decoder reads the scores that `langcell zeroshot` writes, of all cells of a file, and is scored
on the labelled ones: macro-F1 (all types) and accuracy among the study's own labels, and among all
cell types the share called the type of their label or a subtype. `changed` is the share of cells
whose call a decoder changes, `to right` and `to wrong` what part of these becomes right or stops
being so (the rest is wrong before and after). Two graphs: neighbours in the common space, and those
that scanpy finds in principal components of the expression. Clusters are k-means in the common
space. The files of one study are averaged first.

The validation studies chose the defaults, so their figures are optimistic.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy import sparse

from benchmarks.studies import LabelledFile, read_validation_files, shared_folder
from langcell import metrics
from langcell.checkpoint import list_bundled_models
from langcell.counts import open_counts
from langcell.model import LangCell
from langcell.threads import set_threads
from ontology.graph import Ontology
from zeroshot.annotator import AnnotateOptions, annotate_blocks
from zeroshot.candidates import CandidateSet, all_candidates, own_candidates
from zeroshot.cell_scores import CellScores
from zeroshot.cluster_consensus import Pooling, cluster_consensus
from zeroshot.clusters import CELLS_PER_CLUSTER, make_clusters
from zeroshot.neighbors import neighbor_graph
from zeroshot.smoothing import STRENGTH, smooth_scores

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
SPACES = ("own", "all")
_OPTIONS = AnnotateOptions(batch_size=256)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileCells:
    """All cells of a file: their features, and what graphs and clusters are made of."""

    file: LabelledFile
    features: np.ndarray
    seed: int

    @cached_property
    def near(self) -> sparse.csr_matrix:
        """Neighbours in the common space."""
        return neighbor_graph(self.features)

    @cached_property
    def expressed(self) -> sparse.csr_matrix:
        """Neighbours in principal components, as scanpy connects them."""
        with open_counts(self.file.path, scale=self.file.scale) as matrix:
            counts = sparse.vstack([block.counts for block in matrix.blocks()]).tocsr()
        adata = anndata.AnnData(counts.astype(np.float32))
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
        scanpy.pp.highly_variable_genes(adata, n_top_genes=2000)
        scanpy.pp.pca(adata, random_state=self.seed)
        scanpy.pp.neighbors(adata, random_state=self.seed)
        return adata.obsp["connectivities"]

    def clusters(self, cells_per_cluster: int) -> np.ndarray:
        """Cut the cells into clusters of a mean size."""
        return make_clusters(
            self.features, cells_per_cluster=cells_per_cluster, seed=self.seed
        )


Decoder = Callable[[FileCells, CellScores], CellScores]


def voted(pooling: Pooling, cells_per_cluster: int) -> Decoder:
    """Decide by cluster."""
    return lambda cells, scores: (
        cluster_consensus(scores, cells.clusters(cells_per_cluster), pooling=pooling).cells
    )


def smoothed(strength: float, *, expressed: bool = False) -> Decoder:
    """Smooth on one of the graphs."""
    return lambda cells, scores: smooth_scores(
        scores, cells.expressed if expressed else cells.near, strength=strength
    )


def both(cells: FileCells, scores: CellScores) -> CellScores:
    """Smooth, then decide by cluster, with the defaults."""
    smooth = smoothed(STRENGTH)(cells, scores)
    return cluster_consensus(smooth, cells.clusters(CELLS_PER_CLUSTER)).cells


DECODERS: dict[str, Decoder] = {
    "raw": lambda cells, scores: scores,
    **{
        f"clusters of {size}, {pooling}": voted(pooling, size)
        for size in (15, 30, 60)
        for pooling in ("mean", "log")
    },
    **{f"smooth {strength:g}": smoothed(strength) for strength in STRENGTHS},
    **{f"smooth {each:g}, expression": smoothed(each, expressed=True) for each in STRENGTHS},
    "smooth, clusters": both,
}


def score_file(
    model: LangCell, cells: LabelledFile, candidates: CandidateSet
) -> tuple[np.ndarray, CellScores]:
    """Return features and scores of all cells of a file, as annotating writes them."""
    features, scores = [], []
    with open_counts(cells.path, scale=cells.scale) as matrix:
        for block in annotate_blocks(model, matrix, candidates, _OPTIONS):
            features.append(block.features)
            scores.append(block.scores.to_csr())
    return np.concatenate(features), CellScores(
        probabilities=sparse.vstack(scores, format="csr"),
        candidate_ids=candidates.keys,
        candidate_names=candidates.names,
    )


def call_figures(
    before: CellScores, after: CellScores, file: LabelledFile, ontology: Ontology, space: str
) -> dict[str, float]:
    """Score the calls of one decoder on the labelled cells of one file."""
    rows = np.array([ontology.index[each] for each in before.candidate_ids])
    truth = np.array([ontology.index[each] for each in file.truth_ids])
    first, last = (rows[scores.best[file.is_labelled]] for scores in (before, after))

    def is_right(called: np.ndarray) -> np.ndarray:
        if space == "own":
            return called == truth
        return metrics.is_descendant(truth, called, ontology.closure)

    was_right, now_right = is_right(first), is_right(last)
    changed = first != last
    n_changed = max(1, int(changed.sum()))
    figures = {"macro_f1": metrics.macro_f1(truth, last, min_cells=1)} if space == "own" else {}
    return figures | {
        "accuracy": float(now_right.mean()),
        "changed": float(changed.mean()),
        "to_right": float((changed & now_right & ~was_right).sum() / n_changed),
        "to_wrong": float((changed & was_right & ~now_right).sum() / n_changed),
    }


def measure(model: LangCell, files: list[LabelledFile], ontology: Ontology, *, seed: int) -> pd.DataFrame:
    """Run every decoder on every file: a row a decoder, space and file."""
    everything = all_candidates(ontology)
    rows = []
    for file in files:
        own = own_candidates(sorted(set(file.truth_ids)), ontology)
        cells = None
        for space, candidates in zip(SPACES, (own, everything), strict=True):
            features, scores = score_file(model, file, candidates)
            cells = cells or FileCells(file=file, features=features, seed=seed)
            for name, decode in DECODERS.items():
                found = call_figures(scores, decode(cells, scores), file, ontology, space)
                rows.append({"decoder": name, "space": space, "study": file.study, **found})
        print(f"{file.name}: {len(cells.features)} cells", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def print_table(found: pd.DataFrame) -> pd.DataFrame:
    """Print means over studies, and return them by decoder, space and figure."""
    studies = found.groupby(["decoder", "space", "study"]).mean().reset_index()
    means = studies.drop(columns="study").groupby(["decoder", "space"]).mean()
    print(f"{'':<24}{'own labels':^44}{'all cell types':^36}")
    heads = ("macro-F1", "accuracy", "changed", "to right", "to wrong")
    print(f"{'':<24}" + "".join(f"{each:>9}" for each in (*heads, *heads[1:])))
    for name in DECODERS:
        own, every = means.loc[(name, "own")], means.loc[(name, "all")].drop("macro_f1")
        print(f"{name:<24}" + "".join(f"{value:>9.3f}" for value in (*own, *every)))
    raw = studies[studies.decoder == "raw"].set_index(["space", "study"])
    print(f"\n{'gain over raw':<24}{'macro-F1, own':>16}{'accuracy, all':>16}   worst study")
    for name in DECODERS:
        own = studies[studies.decoder == name].set_index(["space", "study"]) - raw.drop(columns="decoder").assign(decoder=np.nan) if False else None
    return means


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="default: every bundled model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shared", type=Path, default=shared_folder(), help="folder with corpus/")
    return parser.parse_args()
