"""Deletion test of gene evidence: `python -m benchmarks.accuracy.evidence --model mini-fast`.

Deletion: the k genes with the most evidence for the call of a cell, among all cell types, are removed
as if they were not expressed, and the cell is scored again; for comparison k random expressed genes
and the k genes of highest rank. Evidence "against" is for the margin over the second-best type. Drops
are of the score of the call (logit scale x similarity) and of its log-probability among all types;
flips are calls that change. The area under the deletion curve is the mean remaining score between 0
and 20 genes, by the trapezoidal rule, relative to the initial score. Cells are drawn from every
validation study; nothing is fitted on them here, but the model was selected on these studies.
"""

import argparse
import json
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import auc

from benchmarks.data.arguments import add_models, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from langcell.model.langcell import LangCell
from langcell.tokens.tokenizer import RankTokenizer
from ontology.graph import Ontology
from zeroshot.evidence.attribution import gene_effects, token_features
from zeroshot.labels.candidates import all_candidates, candidate_features

K = (1, 3, 5, 10, 20)
METHODS = ("evidence", "against", "random", "highest rank")
_DRAWS = 3  # draws of random genes


class CallScorer:
    """Score cells, given as tokens, among all cell types.

    Parameters
    ----------
    model: any model
    ontology: ontology of the candidates
    """

    def __init__(self, model: LangCell, ontology: Ontology) -> None:
        self.model = model
        candidates = all_candidates(ontology)
        self.features = candidate_features(candidates, model)

    def scores(self, cells: Sequence[np.ndarray]) -> np.ndarray:
        """Return scale * similarity, shape (n_cells, n_candidates)."""
        similarities = token_features(self.model, cells) @ self.features.T
        return self.model.scale.item() * similarities


def draw_cells(file: LabelledFile, model: LangCell, n: int, seed: int) -> list[np.ndarray]:
    """Return the tokens of up to n labelled cells, with 20 spare genes that replace deleted ones."""
    tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes + max(K))
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(file.is_labelled))[:n]
    with open_counts(file.path, scale=file.scale) as matrix:
        cells = [
            block.cell(row).astype(np.int64)
            for block in tokenizer.tokenize(matrix)
            for row in range(block.n_cells)
            if block.start + row in rows
        ]
    return [tokens for tokens in cells if len(tokens) > 2 * max(K)]


def orders(
    scorer: CallScorer, tokens: np.ndarray, best: int, second: int, rng: np.random.Generator
) -> dict[str, list[np.ndarray]]:
    """Return the positions of a cell's genes in the order in which each method deletes them."""
    label, other = scorer.features[[best, second]]
    directions = np.stack([label, label - other])
    effects = gene_effects(scorer.model, [tokens], [directions])[0]
    n_read = len(effects)
    return {
        "evidence": [np.argsort(-effects[:, 0], kind="stable")],
        "against": [np.argsort(-effects[:, 1], kind="stable")],
        "random": [rng.permutation(n_read) for _ in range(_DRAWS)],
        "highest rank": [np.arange(n_read)],
    }


def delete(
    scorer: CallScorer, cells: Sequence[np.ndarray], rng: np.random.Generator
) -> pd.DataFrame:
    """Delete genes of cells; return one row per cell, method and k, averaged over random draws."""
    whole = scorer.scores(cells)
    ranked = np.argsort(-whole, axis=1, kind="stable")[:, :2]
    rows = []
    for tokens, scores, (best, second) in zip(cells, whole, ranked, strict=True):
        start = scores[best], log_softmax(scores)[best]
        for method, ways in orders(scorer, tokens, best, second, rng).items():
            changed = scorer.scores([np.delete(tokens, way[:k]) for k in K for way in ways])
            for number, after in enumerate(changed):
                rows.append(
                    {
                        "method": method,
                        "k": K[number // len(ways)],
                        "start": start[0],
                        "score_drop": start[0] - after[best],
                        "log_probability_drop": start[1] - log_softmax(after)[best],
                        "flips": float(after.argmax() != best),
                    }
                )
    return pd.DataFrame(rows)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return log-probabilities of one cell, shape (n_candidates,)."""
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def measure(
    scorer: CallScorer, files: Sequence[LabelledFile], *, n_cells: int, seed: int
) -> pd.DataFrame:
    """Return means over cells, files and studies, with one row per method and k."""
    parts = []
    for number, file in enumerate(files):
        cells = draw_cells(file, scorer.model, n_cells, seed + number)
        found = delete(scorer, cells, np.random.default_rng(seed + number))
        means = found.groupby(["method", "k"]).mean().reset_index()
        parts.append(means.assign(study=file.study))
    by_study = pd.concat(parts).groupby(["study", "method", "k"]).mean()
    return by_study.groupby(["method", "k"]).mean()


def area(rows: pd.DataFrame) -> float:
    """Return the mean remaining score between 0 and 20 genes, relative to the initial score."""
    k = np.array([0, *rows.index])
    start = float(rows["start"].iloc[0])
    left = np.concatenate([[start], start - rows["score_drop"]])
    return float(auc(k, left) / k[-1] / start)


def print_table(name: str, figures: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Print the table of one model and return its scores by method."""
    print(f"\n{name}: k genes taken out of the cell; mean over studies")
    heads = "".join(f"{f'k={k}':>8}" for k in K)
    print(f"{'':<14}{'':<22}{heads}{'area':>8}")
    record: dict[str, dict[str, float]] = {}
    for method in METHODS:
        rows = figures.loc[method]
        record[method] = {"area": round(area(rows), 4)}
        for column in ("score_drop", "log_probability_drop", "flips"):
            shown = "".join(f"{rows.loc[k, column]:>8.3f}" for k in K)
            tail = f"{area(rows):>8.3f}" if column == "score_drop" else ""
            title = method if column == "score_drop" else ""
            print(f"{title:<14}{column:<22}{shown}{tail}", flush=True)
            record[method] |= {f"{column}_{k}": round(float(rows.loc[k, column]), 4) for k in K}
    return record


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser)
    parser.add_argument("--cells", type=int, default=100, help="cells per file; default 100")
    parser.add_argument("--seed", type=int, default=0)
    return parse(parser)


def main() -> None:
    """Print a table per model, and one JSON line."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    files = validation_files(arguments)
    results, digests = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
        for name in arguments.model or ["mini-fast"]:
            model = LangCell.from_pretrained(name)
            scorer = CallScorer(model, ontology)
            figures = measure(scorer, files, n_cells=arguments.cells, seed=arguments.seed)
            results[name] = print_table(name, figures)
            digests[name] = model.sha256
    record = {
        "benchmark": "evidence",
        "cells_per_file": arguments.cells,
        "seed": arguments.seed,
        "models": digests,
        "studies": sorted({file.study for file in files}),
    }
    print(json.dumps({**record, "figures": results}))


if __name__ == "__main__":
    main()
