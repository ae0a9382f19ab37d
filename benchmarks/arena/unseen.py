"""Arena task: zero-shot annotation of cell types without training data."""

import numpy as np
import pandas as pd

from benchmarks.arena.cells import CellFiles, CellScorer
from benchmarks.arena.results import Method, Unit, rounded
from benchmarks.scoring.type_scores import FIGURES, score_types
from langcell.nn.metrics import h_score


class UnseenTask:
    """Accuracy on types without training cells, among all cell types.

    Each unseen type of a study is a unit; all have the same weight. `seen` is the mean over the other
    types of the same studies, `h` the harmonic mean of the two.

    Parameters
    ----------
    trained: ids of the types of the training split
    """

    name = "unseen"
    title = "cell types without training cells, among all: share of cells called them or a subtype"
    figures: tuple[str, ...] = (
        *("descendant", "top5", "accuracy", "chance_top5"),
        *(f"{kind} {figure}" for kind in ("seen", "h") for figure in ("descendant", "top5")),
    )
    by_row = False

    def __init__(self, cells: CellFiles, trained: frozenset[str]) -> None:
        self._cells = cells
        self._trained = trained
        self.data = f"types of {cells.described} that are none of {len(trained)} trained ones"
        self.digest = " ".join([cells.digest, *sorted(trained)])

    def takes(self, annotator: object) -> bool:
        """Accept annotators that score cells."""
        return isinstance(annotator, CellScorer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Score every type; files of the same study are averaged."""
        tables = []
        for file in self._cells.files:
            candidates = self._cells.spaces[file.name]["all"]
            scores = self._cells.scores(method, file, candidates)
            found = score_types(file.truth_ids, scores, candidates, self._cells.ontology)
            sizes = pd.Series(file.truth_ids.astype(str)).value_counts()
            tables.append(pd.concat({file.study: found.assign(n=sizes)}))
        types = pd.concat(tables).groupby(level=[0, 1]).mean()
        is_seen = types.index.get_level_values(1).isin(self._trained)
        seen = types[is_seen].groupby(level=0)[list(FIGURES)].mean()
        units = []
        for (study, term_id), row in types[~is_seen].iterrows():
            figures = {name: float(row[name]) for name in (*FIGURES, "chance_top5")}
            for name in ("descendant", "top5"):
                known = float(seen[name].get(study, np.nan))
                figures |= {f"seen {name}": known, f"h {name}": h_score(known, row[name])}
            name = f"{self._cells.ontology.terms[term_id].name} ({study})"
            units.append(Unit(name=name, n=int(row.n), figures=rounded(figures)))
        return units, []
