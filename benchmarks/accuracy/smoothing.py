"""Effect of cluster consensus and graph smoothing: `python -m benchmarks.accuracy.smoothing`.

Every decoder reads the scores that `langcell zeroshot` writes for all cells of a file, and is scored
on the labelled ones: macro-F1 (all types) and accuracy among the study's own labels, and among all
cell types the share predicted as their label or a subtype. `changed` is the share of cells whose
prediction changes, `to right` and `to wrong` the shares of these that become correct or wrong (the
rest is wrong before and after). `worst study` gains the least accuracy, mean of both label spaces.
Two graphs: nearest neighbours of the embeddings, and those of scanpy in principal components of the
expression. Clusters are k-means of the embeddings. Files of a study are averaged first.

The defaults were chosen on the validation studies, so their scores are optimistic.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy import sparse

from benchmarks.data.arguments import add_models, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from langcell.model.langcell import LangCell
from langcell.nn import metrics
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer, annotate_blocks
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.decide.cluster_consensus import cluster_consensus
from zeroshot.decide.clusters import CELLS_PER_CLUSTER, make_clusters
from zeroshot.decide.knn_graph import neighbor_graph
from zeroshot.decide.options import STRENGTH, Pooling
from zeroshot.decide.smoothing import smooth_scores
from zeroshot.labels.candidates import CandidateSet, all_candidates, own_candidates
from zeroshot.results.cell_scores import CellScores

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
_OPTIONS = AnnotateOptions(batch_size=256)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileCells:
    """All cells of a file, with embeddings, graphs and clusters."""

    file: LabelledFile
    features: np.ndarray
    seed: int

    @cached_property
    def near(self) -> sparse.csr_matrix:
        """KNN graph of the embeddings."""
        return neighbor_graph(self.features)

    @cached_property
    def expressed(self) -> sparse.csr_matrix:
        """KNN graph of scanpy in principal components."""
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
        """Cluster the cells, given a mean cluster size."""
        return make_clusters(self.features, cells_per_cluster=cells_per_cluster, seed=self.seed)


Decoder = Callable[[FileCells, CellScores], CellScores]


def voted(pooling: Pooling, cells_per_cluster: int) -> Decoder:
    """Return a decoder by cluster consensus."""
    return lambda cells, scores: (
        cluster_consensus(scores, cells.clusters(cells_per_cluster), pooling=pooling).cells
    )


def smoothed(strength: float, *, expressed: bool = False) -> Decoder:
    """Return a decoder that smooths over a graph."""
    return lambda cells, scores: smooth_scores(
        scores, cells.expressed if expressed else cells.near, strength=strength
    )


def both(cells: FileCells, scores: CellScores) -> CellScores:
    """Smooth, then apply cluster consensus, with the defaults."""
    smooth = smoothed(STRENGTH)(cells, scores)
    return cluster_consensus(smooth, cells.clusters(CELLS_PER_CLUSTER)).cells


DECODERS: dict[str, Decoder] = {
    "raw": lambda cells, scores: scores,
    **{
        f"clusters of {size}, {pooling}": voted(pooling, size)
        for size in (CELLS_PER_CLUSTER, 30)
        for pooling in ("mean", "log")
    },
    **{f"smooth {strength:g}": smoothed(strength) for strength in STRENGTHS},
    **{f"smooth {each:g}, expression": smoothed(each, expressed=True) for each in STRENGTHS},
    "smooth, clusters": both,
}


def score_file(
    model: LangCell, cells: LabelledFile, candidates: CandidateSet
) -> tuple[np.ndarray, CellScores]:
    """Return embeddings and scores of all cells of a file, as in annotation."""
    features, scores = [], []
    with open_counts(cells.path, scale=cells.scale) as matrix:
        for block in annotate_blocks(CellScorer(model, candidates, _OPTIONS), matrix):
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
    """Score the predictions of one decoder on the labelled cells of one file."""
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


def measure(
    model: LangCell, files: Sequence[LabelledFile], ontology: Ontology, *, seed: int
) -> pd.DataFrame:
    """Run every decoder; return one row per decoder, space and study, averaged over files."""
    everything = all_candidates(ontology)
    rows = []
    for file in files:
        print(f"{file.name}: {len(file.is_labelled)} cells", file=sys.stderr, flush=True)
        own = own_candidates(sorted(set(file.truth_ids)), ontology)
        scored = {
            "own": score_file(model, file, own),
            "all": score_file(model, file, everything),
        }
        cells = FileCells(file=file, features=scored["own"][0], seed=seed)
        for space, (_, scores) in scored.items():
            for name, run_decoder in DECODERS.items():
                found = call_figures(scores, run_decoder(cells, scores), file, ontology, space)
                rows.append({"decoder": name, "space": space, "study": file.study, **found})
    by_file = pd.DataFrame(rows)
    return by_file.groupby(["decoder", "space", "study"]).mean().reset_index()


def print_tables(name: str, studies: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Print the means over studies and the worst study; return the means by decoder."""
    means = studies.drop(columns="study").groupby(["decoder", "space"]).mean()
    print(f"\n{name}, {studies.study.nunique()} studies")
    print(f"{'':<24}{'own labels':<47}all cell types (descendant rule)")
    heads = ("macro-F1", "accuracy", "changed", "to right", "to wrong")
    print(f"{'':<24}" + "".join(f"{each:<9}" for each in (*heads, *heads[1:])) + "worst study")
    raw = studies[studies.decoder == "raw"].set_index(["space", "study"])
    figures = {}
    for decoder in DECODERS:
        own, every = means.loc[(decoder, "own")], means.loc[(decoder, "all")].drop("macro_f1")
        found = studies[studies.decoder == decoder].set_index(["space", "study"])
        gain = (found.accuracy - raw.accuracy).groupby("study").mean()
        numbers = "".join(f"{value:<9.3f}" for value in (*own, *every))
        print(f"{decoder:<24}{numbers}{gain.min():+.3f} {gain.idxmin()}")
        figures[decoder] = {
            f"{space}_{key}": round(float(value), 4)
            for space, row in (("own", own), ("all", every))
            for key, value in row.items()
        }
    return figures


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parse(parser)


def main() -> None:
    """Print a table per model, and one JSON line."""
    arguments = parse_arguments()
    files = validation_files(arguments)
    ontology = Ontology.bundled()
    results, digests = {}, {}
    with warnings.catch_warnings():
        # Low coverage of small gene panels, and warnings of scanpy about logarithms and tiny files.
        warnings.simplefilter("ignore")
        for name in arguments.model or ["mini-fast"]:
            model = LangCell.from_pretrained(name, device=arguments.device)
            studies = measure(model, files, ontology, seed=arguments.seed)
            results[name] = print_tables(name, studies)
            digests[name] = model.sha256
    record = {
        "benchmark": "smoothing",
        "seed": arguments.seed,
        "models": digests,
        "used_for": "choice of lambda, pooling and cluster size",
        "files": [file.name for file in files],
    }
    print(json.dumps({**record, "figures": results}))


if __name__ == "__main__":
    main()
