"""Out-of-distribution detection: `python -m benchmarks.accuracy.ood --model mini-fast`.

Cells of the validation studies against simulated doublets (sums of two cells of different types),
empty droplets (50 to 300 counts drawn from the mean profile of a file), cells of types without
training data, and mouse cells with upper-cased symbols. AUROC, and the share of good cells flagged at
the threshold that flags 95 % of the bad ones. The score was chosen on these studies.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy.robustness import read_cells
from benchmarks.data.arguments import add_model, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.confidence.out_of_distribution import OutlierScore
from zeroshot.labels.candidates import all_candidates

_CELLS = 400  # per kind and file
# glioblast, Cajal-Retzius cell, forebrain neuroblast: not in any training file
_UNSEEN = ("CL:0000030", "CL:0000695", "CL:1000042")
Scores = dict[str, np.ndarray]  # by method; higher is less like training cells


def auroc(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the probability that a bad cell scores higher than a good one.

    >>> auroc(np.array([0.0, 1.0]), np.array([2.0, 0.5]))
    0.75
    """
    return float(
        roc_auc_score(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad]))
    )


def fpr_at_95(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the share of good cells at or above the score that 95 % of the bad ones reach.

    >>> fpr_at_95(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    0.5
    """
    return float(np.mean(good >= np.quantile(bad, 0.05, method="lower")))


def doublets(counts: sparse.csr_matrix, truth: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:  # fmt: skip
    """Add up pairs of cells of different types."""
    first, second = rng.integers(0, len(truth), (2, 20 * _CELLS))
    pairs = np.flatnonzero(truth[first] != truth[second])[:_CELLS]
    return counts[first[pairs]] + counts[second[pairs]]


def empty_droplets(counts: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Draw few counts from the mean profile."""
    profile = np.asarray(counts.sum(axis=0)).ravel().astype(np.float64)
    totals = rng.integers(50, 300, _CELLS)
    return sparse.csr_matrix(
        np.stack([rng.multinomial(total, profile / profile.sum()) for total in totals])
    )


def scorer(model: LangCell) -> Callable[[sparse.csr_matrix, np.ndarray], Scores]:
    """Return a function that scores counts (n_cells, n_genes) by all methods."""
    if model.reference is None:
        raise ValueError("the model has no reference cells, so it has no outlier score")
    outlier = OutlierScore(model.reference)
    everything = all_candidates(Ontology.bundled())
    labels = CellScorer(model, everything, AnnotateOptions(calibration=UNCALIBRATED))

    def score(counts: sparse.csr_matrix, genes: np.ndarray) -> Scores:
        adata = anndata.AnnData(X=sparse.csr_matrix(counts, dtype=np.float32))
        adata.var_names = genes.astype(str)
        with open_counts(adata, scale="linear") as matrix:
            blocks = list(embed_cells(model, matrix, check_coverage=False))
        features = np.concatenate([block.features for block in blocks])
        best = np.concatenate([labels(block).log_probabilities[:, 0] for block in blocks])
        return {
            "langcell_ood": outlier(features).astype(np.float64),
            "1 - best probability": 1 - np.exp(best.astype(np.float64)),
            "few genes": -np.diff(adata.X.indptr).astype(np.float64),
            "many genes": np.diff(adata.X.indptr).astype(np.float64),
        }

    return score


def contrasts(
    files: list[LabelledFile],
    mouse: Path,
    score: Callable[[sparse.csr_matrix, np.ndarray], Scores],
    *,
    seed: int,
) -> Iterator[tuple[str, str, Scores, Scores]]:
    """Yield the kind, the study, and scores of good and of bad cells."""
    tabula = anndata.read_h5ad(mouse)
    mouse_scores = score(tabula.X, np.array([name.upper() for name in tabula.var_names]))
    for number, file in enumerate(files):
        rng = np.random.default_rng(seed + number)
        cells = read_cells(file)
        counts, truth = cells.counts[file.is_labelled], file.truth_ids
        rows = np.sort(rng.permutation(len(truth))[:_CELLS])
        good = score(counts[rows], cells.names)
        yield "doublets", file.study, good, score(doublets(counts, truth, rng), cells.names)
        yield "empty droplets", file.study, good, score(empty_droplets(counts, rng), cells.names)
        yield "mouse cells", file.study, good, mouse_scores
        is_unseen = np.isin(truth[rows], _UNSEEN)
        if is_unseen.any():
            parts = [
                {key: each[at] for key, each in good.items()} for at in (~is_unseen, is_unseen)
            ]
            yield "types never seen", file.study, parts[0], parts[1]


def main() -> None:
    """Measure, print tables and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser)
    corpus = options.shared / "corpus"
    score = scorer(LangCell.from_pretrained(options.model))
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gene names as published are not unique
        found = contrasts(
            validation_files(options), corpus / "mouse" / "tabula_muris.h5ad", score,
            seed=options.seed,
        )  # fmt: skip
        for kind, study, good, bad in found:
            for name in good:
                figures = auroc(good[name], bad[name]), fpr_at_95(good[name], bad[name])
                rows.append((kind, study, name, *figures))
    table = pd.DataFrame(rows, columns=["kind", "study", "score", "auroc", "fpr95"])
    studies = table.groupby(["kind", "score", "study"], sort=False)[["auroc", "fpr95"]].mean()
    means = studies.groupby(level=["kind", "score"], sort=False).mean()
    print(
        f"validation studies, up to {_CELLS} cells of each kind and file; the score was chosen on them"
    )
    print(studies["auroc"].unstack().to_string(float_format="{:.3f}".format))
    print(f"\nmeans over studies\n{means.to_string(float_format='{:.3f}'.format)}")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for (kind, name), row in means.iterrows():
        results.setdefault(kind, {})[name] = row.round(4).to_dict()
    print(json.dumps({"benchmark": "ood", "model": options.model, "results": results}))


if __name__ == "__main__":
    main()
