"""Task of the arena: what shallow counts, missing genes and other words cost."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from benchmarks.accuracy.robustness import COSTLY, write_changed
from benchmarks.arena.cells import CellFiles, CellScorer, unite
from benchmarks.arena.leaks import CellLeaks
from benchmarks.arena.results import Method, Unit
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.scoring import score_space

_PLAIN = "as published"
_WORDINGS = ("name alone", "synonym")


@runtime_checkable
class WordScorer(Protocol):
    """Scores labelled cells against words, whatever they stand for."""

    def word_scores(self, file: LabelledFile, texts: Sequence[str]) -> np.ndarray:
        """Return float32, shape (n_cells, n_texts); higher is likelier."""
        ...


class RobustnessTask:
    """Macro-F1 of own labels when the cells, or the words for the labels, are changed.

    Cells are changed as in `benchmarks.accuracy.robustness`: counts thinned, genes left out. What reads words
    gets each label as its bare name, and as its first synonym where it has one, in place of the
    description. `kept` is the mean over all changes that the annotator takes, as a share of the figure
    without any.
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
        """Take what scores cells."""
        return isinstance(annotator, CellScorer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Score every file under every change; the files of a study are averaged."""
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
        return unite(parts, leaks), notes

    def _figures(
        self, annotator: object, file: LabelledFile, seed: int, notes: list[str]
    ) -> dict[str, float]:
        """Return the figure of each change; NaN, and a note, where the annotator refuses the cells."""
        assert isinstance(annotator, CellScorer)
        own = self._cells.spaces[file.name]["own"]
        figures = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, change in COSTLY.items():
                changed = write_changed(file, change, Path(folder), seed)
                try:
                    figures[name] = self._macro_f1(file, annotator.scores(changed, own), own)
                except ValueError as refusal:  # too few genes are left, as a user would be told
                    if name == _PLAIN:
                        raise
                    figures[name] = float("nan")
                    notes.append(f"{name} of {file.name}: {refusal}")
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
