"""Deletion test of the genes in reports: `python -m benchmarks.accuracy.call_evidence`.

A report explains a call after back-off by the mean direction of all candidates that descend from it,
weighted by their probabilities. Deletion: the k genes with the most evidence are removed from a cell,
which is then scored again; for comparison the genes by the text embedding of the called term alone,
and k random expressed genes. Scores are drops of the log-probability of the called term among all
cell types, averaged over cells, then files, then studies. Nothing is fitted on the cells here, but
the model was selected on these studies.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.accuracy.evidence import draw_cells
from benchmarks.data.arguments import add_model, make_parser, parse
from benchmarks.data.studies import read_validation_files
from langcell.model.embed_cells import CellEmbeddings
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.evidence.attribution import gene_effects, token_features
from zeroshot.evidence.group_evidence import candidates_below
from zeroshot.labels.candidates import all_candidates, candidate_features

K = (3, 5, 10, 20)
METHODS = ("candidates below", "text of the call", "random")


class BroadCalls:
    """Call cells, given as tokens, as `langcell zeroshot` does.

    Parameters
    ----------
    model: model with a calibration
    ontology: ontology of the candidates
    """

    def __init__(self, model: LangCell, ontology: Ontology) -> None:
        self.model, self._ontology = model, ontology
        self._candidates = all_candidates(ontology)
        self._scorer = CellScorer(model, self._candidates, AnnotateOptions())
        self._features = candidate_features(self._candidates, model)

    def _embedded(self, cells: Sequence[np.ndarray]) -> CellEmbeddings:
        return CellEmbeddings(start=0, features=token_features(self.model, cells))

    def call(self, tokens: np.ndarray) -> str:
        """Return the Cell Ontology id of the call of a cell, '' for unknown."""
        term = int(self._scorer.annotate(self._embedded([tokens])).calls.terms[0])
        return self._scorer.tree.ids[term] if term >= 0 else ""

    def probabilities(self, cells: Sequence[np.ndarray]) -> np.ndarray:
        """Return the probabilities of all candidates, float64, shape (n_cells, n_candidates)."""
        return np.exp(self._scorer.score_all(self._embedded(cells))[1].astype(np.float64))

    def delete(self, tokens: np.ndarray, term_id: str, rng: np.random.Generator) -> pd.DataFrame:
        """Delete genes of a cell; return one row per method and k."""
        below = candidates_below(term_id, self._candidates.keys, self._ontology)
        held = self.probabilities([tokens])[0] * below
        own = self._candidates.ids.index(term_id)
        directions = np.stack([held / held.sum() @ self._features, self._features[own]])
        (effects,) = gene_effects(self.model, [tokens], [directions.astype(np.float32)])
        ways = [*np.argsort(-effects, axis=0, kind="stable").T, rng.permutation(len(effects))]
        changed = [np.delete(tokens, way[:k]) for way in ways for k in K]
        left = np.log(self.probabilities(changed) @ below).reshape(len(ways), len(K))
        drops = np.log(held.sum()) - left
        return pd.DataFrame(drops, index=pd.Index(METHODS, name="method"), columns=K)


def measure(calls: BroadCalls, corpus: Path, *, n_cells: int, seed: int) -> pd.DataFrame:
    """Return mean drops over cells, files and studies: one row per method, one column per k."""
    parts = []
    for number, file in enumerate(read_validation_files(corpus)):
        rng = np.random.default_rng(seed + number)
        cells = [(each, calls.call(each)) for each in draw_cells(file, calls.model, n_cells, seed)]
        found = [calls.delete(each, term_id, rng) for each, term_id in cells if term_id]
        if found:
            means = pd.concat(found).groupby(level=0).mean()
            parts.append(means.assign(study=file.study).set_index("study", append=True))
    by_study = pd.concat(parts).groupby(level=["method", "study"]).mean()
    return by_study.groupby(level="method").mean().loc[list(METHODS)]


def main() -> None:
    """Print a table and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--cells", type=int, default=30, help="cells per file")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser)
    model = LangCell.from_pretrained(options.model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
            figures = measure(
                BroadCalls(model, Ontology.bundled()),
                options.shared / "corpus",
                n_cells=options.cells,
                seed=options.seed,
            )
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"{options.model}: drop of the log-probability of the call, k genes taken out")
    print(figures.to_string(float_format="{:.3f}".format))
    record = {name: row.round(4).to_dict() for name, row in figures.iterrows()}
    settings = {"model": options.model, "cells_per_file": options.cells, "seed": options.seed}
    print(json.dumps({"benchmark": "call_evidence", **settings, "figures": record}))


if __name__ == "__main__":
    main()
