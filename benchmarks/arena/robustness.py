"""Arena task: loss of accuracy with shallow counts, missing genes and other wordings."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from benchmarks.accuracy.robustness import COSTLY, write_changed
from benchmarks.arena.cells import CellFiles, CellScorer, combine_files
from benchmarks.arena.leaks import CellLeaks
from benchmarks.arena.results import Method, Unit
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.scoring import score_space

_PLAIN = "as published"
_WORDINGS = ("name alone", "synonym")


@runtime_checkable
class WordScorer(Protocol):
    """Protocol of annotators that score cells against arbitrary texts."""

    def word_scores(self, file: LabelledFile, texts: Sequence[str]) -> np.ndarray:
        """Return scores, float32, shape (n_cells, n_texts); higher is more likely."""
        ...


class RobustnessTask:
    """Macro-F1 among the study's own labels when cells or label texts are changed.

    Cells are changed as in `benchmarks.accuracy.robustness`: counts downsampled, genes dropped.
    Annotators that read texts get the bare name of each label, and its first synonym if it has one,
    instead of the description. `kept` is the mean over all changes that the annotator supports, as a
    share of the score without changes.
    """

    name = "robustness"
    title = (
        "macro-F1 of own labels under changes of counts, genes and words, as a share of the plain"
    )
    figures: tuple[str, ...] = ("kept", *COSTLY, *_WORDINGS)
    by_row = False

    def __init__(self, cells: CellFiles, leaks: CellLeaks, *, seed: int = 0) -> None:
        self._cells = cells
        self._leaks = leaks
        self._seed = seed
        self.data = cells.described
        self.digest = f"{cells.digest} {seed}"

    def takes(self, annotator: object) -> bool:
        """Accept annotators that score cells."""
        return isinstance(annotator, CellScorer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Score every file with every change; files of the same study are averaged."""
        parts: dict[str, list[tuple[int, dict[str, float]]]] = {}
        leaks: dict[str, str] = {}
        notes: list[str] = []
        for number, file in enumerate(self._cells.files):
            figures = self._figures(method.annotator, file, self._seed + number, notes)
            plain = max(figures[_PLAIN], 1e-9)
            changed = [v for name, v in figures.items() if name != _PLAIN and not np.isnan(v)]
            figures["kept"] = float(np.mean(changed)) / plain if changed else float("nan")
            parts.setdefault(file.study, []).append((file.n_cells, figures))
            leaks[file.study] = leaks.get(file.study) or self._leaks.of(method.trained_on, file)
        return combine_files(parts, leaks), notes

    def _figures(
        self, annotator: object, file: LabelledFile, seed: int, notes: list[str]
    ) -> dict[str, float]:
        """Return the score of each change; NaN and a note if the annotator rejects the cells."""
        assert isinstance(annotator, CellScorer)
        own = self._cells.spaces[file.name]["own"]
        figures = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, change in COSTLY.items():
                changed = write_changed(file, change, Path(folder), seed)
                try:
                    figures[name] = self._macro_f1(file, annotator.scores(changed, own), own)
                except ValueError as error:  # too few genes are left
                    if name == _PLAIN:
                        raise
                    figures[name] = float("nan")
                    notes.append(f"{name} of {file.name}: {error}")
        for name, texts in zip(_WORDINGS, self._texts(own), strict=True):
            figures[name] = float("nan")
            if isinstance(annotator, WordScorer):
                figures[name] = self._macro_f1(file, annotator.word_scores(file, texts), own)
        return figures

    def _texts(self, own: Sequence[str]) -> tuple[list[str], list[str]]:
        terms = [self._cells.ontology.terms[term_id] for term_id in own]
        names = [term.name for term in terms]
        return names, [term.synonyms[0] if term.synonyms else term.name for term in terms]

    def _macro_f1(self, file: LabelledFile, scores: np.ndarray, own: Sequence[str]) -> float:
        return score_space(file.truth_ids, scores, own, self._cells.ontology).macro_f1_all
