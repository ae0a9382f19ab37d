"""Arena task: retrieval of texts by cells and of cells by texts, among all cell types."""

from dataclasses import asdict

import numpy as np

from benchmarks.arena.cells import CellFiles, CellScorer, combine_files
from benchmarks.arena.leaks import CellLeaks
from benchmarks.arena.results import Method, Unit
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.retrieval import K, Retrieval, retrieve
from benchmarks.scoring.search_scores import right_cells


class RetrievalTask:
    """Recall at k and mean reciprocal rank, within each file.

    `cell` ranks all cell types for each cell; its own type is correct. `text` ranks the cells of the
    file for each of its types; cells of that type or a subtype are correct, and cells labelled with
    an ancestor are left out. `chance` is the score of a random order.
    """

    name = "retrieval"
    title = "cells to texts and texts to cells: mean reciprocal rank of the right cell type"
    figures: tuple[str, ...] = (
        *("cell mrr", *(f"cell R@{k}" for k in K), "cell chance mrr"),
        *("text mrr", *(f"text R@{k}" for k in K), "text chance mrr"),
    )
    by_row = False

    def __init__(self, cells: CellFiles, leaks: CellLeaks) -> None:
        self._cells = cells
        self._leaks = leaks
        self.data = cells.described
        self.digest = cells.digest

    def takes(self, annotator: object) -> bool:
        """Accept annotators that score cells."""
        return isinstance(annotator, CellScorer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Score every file; files of the same study are averaged."""
        parts: dict[str, list[tuple[int, dict[str, float]]]] = {}
        leaks: dict[str, str] = {}
        for file in self._cells.files:
            figures = self._figures(file, method)
            parts.setdefault(file.study, []).append((file.n_cells, figures))
            leaks[file.study] = leaks.get(file.study) or self._leaks.of(method.trained_on, file)
        return combine_files(parts, leaks), []

    def _figures(self, file: LabelledFile, method: Method) -> dict[str, float]:
        candidates = self._cells.spaces[file.name]["all"]
        place = {term_id: column for column, term_id in enumerate(candidates)}
        is_candidate = np.array([term_id in place for term_id in file.truth_ids])
        scores = self._cells.scores(method, file, candidates)[is_candidate]
        labels = np.array([place[term_id] for term_id in file.truth_ids[is_candidate]])
        own = labels[:, None] == np.arange(len(candidates))
        present = np.unique(labels)
        closure = self._cells.ontology.closure_of(candidates)
        is_right, is_known = right_cells(closure, labels, present)
        by_cell = retrieve(scores, own, np.ones_like(own))
        by_text = retrieve(scores[:, present].T, is_right.T, is_known.T)
        return _named("cell", by_cell) | _named("text", by_text)


def _named(what: str, found: Retrieval) -> dict[str, float]:
    values = asdict(found)
    recall = {f"{what} R@{k}": each for k, each in zip(K, values["recall"], strict=True)}
    return {f"{what} mrr": found.mrr, **recall, f"{what} chance mrr": found.chance_mrr}
