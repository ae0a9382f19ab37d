"""Arena task: few-shot annotation with a few labelled cells of each type."""

import numpy as np

from benchmarks.accuracy.fewshot import METHODS, StudyCells, read_cells, splits
from benchmarks.arena.cells import CellFiles, combine_files
from benchmarks.arena.results import Method, Unit
from langcell.model.embedder import Embedder
from langcell.nn import metrics

_WITHIN = "learnt and called cells of the same donors"


class FewShotMethod:
    """A method of `benchmarks.accuracy.fewshot`, which is fitted on labelled cells of the same study.

    Parameters
    ----------
    method: one of its `METHODS`
    """

    def __init__(self, method: str) -> None:
        self.call = METHODS[method]


class FewShotTask:
    """Macro-F1 among the study's own labels with k cells of each, mean over k and seeds.

    If a file has two donors, donors are held out; otherwise the method is fitted and scored on cells
    of the same donors, which is marked as a leak.
    """

    name = "few-shot"
    by_row = False
    title = "macro-F1 of own labels with a few labelled cells of each"

    def __init__(
        self, cells: CellFiles, model: Embedder, *, shots: tuple[int, ...], n_seeds: int
    ) -> None:
        self._cells = cells
        self._model = model
        self._shots = shots
        self._n_seeds = n_seeds
        self._read: dict[str, StudyCells] = {}
        self.figures = ("macro_f1", *(f"{k} shots" for k in shots))
        self.data = f"{'/'.join(map(str, shots))} cells a type, {n_seeds} seeds, {cells.described}"
        self.digest = f"{cells.digest} {shots} {n_seeds} {model.sha256}"

    def takes(self, annotator: object) -> bool:
        """Accept few-shot methods."""
        return isinstance(annotator, FewShotMethod)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Score every file; files of the same study are averaged."""
        assert isinstance(method.annotator, FewShotMethod)
        parts: dict[str, list[tuple[int, dict[str, float]]]] = {}
        leaks = {}
        for file in self._cells.files:
            if file.name not in self._read:
                self._read[file.name] = read_cells(file, self._model, self._cells.ontology)
            cells = self._read[file.name]
            figures = {f"{k} shots": self._macro_f1(method.annotator, cells, k) for k in self._shots}  # fmt: skip
            figures["macro_f1"] = float(np.mean(list(figures.values())))
            parts.setdefault(file.study, []).append((file.n_cells, figures))
            leaks[file.study] = _WITHIN if cells.shots.groups is None else ""
        return combine_files(parts, leaks), []

    def _macro_f1(self, annotator: FewShotMethod, cells: StudyCells, k: int) -> float:
        found = []
        for seed in range(self._n_seeds):
            for train, test in splits(cells, k, seed):
                truth, called = cells.shots.labels[test], annotator.call(cells, train, test)
                found.append(metrics.macro_f1(truth, called, min_cells=1))
        return float(np.mean(found))
