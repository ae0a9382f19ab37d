"""Labelled files of the arena, and the task of annotating their cells."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.special import softmax

from benchmarks.arena.leaks import CellLeaks
from benchmarks.arena.results import Method, Unit, average, rounded
from benchmarks.data.studies import SPACES, LabelledFile, label_spaces
from benchmarks.scoring.scoring import FIGURES, score_space
from benchmarks.scoring.selective import area_under_risk, calibration_error
from langcell.counts.obs_columns import read_obs_column
from langcell.runtime.digest import sha256_of
from ontology.graph import Ontology
from ontology.tissues import TissueMap

_BINS = 10
_ALL = tuple(f"{space} {figure}" for space in SPACES for figure in (*FIGURES, "aurc", "ece"))
# Columns of a table, the main score first.
_SHOWN = (
    *("own macro_f1_all", "own accuracy", "own aurc", "own ece", "tissue descendant"),
    *("all descendant", "all top5", "all hierarchical_f1", "all distance"),
)


@runtime_checkable
class CellScorer(Protocol):
    """Protocol of annotators that score cells against candidates, see `baselines.annotators`."""

    def scores(self, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Return scores, float32, shape (n_cells, n_candidates); higher is more likely."""
        ...


class ScoreCache:
    """Cache of the scores of the last method, shared by the tasks."""

    def __init__(self) -> None:
        self._of: Method | None = None
        self._kept: dict[tuple[Path, tuple[str, ...]], np.ndarray] = {}

    def get(self, method: Method, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Return the scores of a method; see `CellScorer.scores`."""
        if method is not self._of:
            self._of, self._kept = method, {}
        key = file.path, tuple(candidates)
        if key not in self._kept:
            assert isinstance(method.annotator, CellScorer)
            self._kept[key] = np.asarray(method.annotator.scores(file, candidates))
        return self._kept[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class CellFiles:
    """Labelled files, their candidate labels, and the units of the bootstrap.

    Attributes
    ----------
    spaces: candidate labels by file and label space
    donors: donor of each labelled cell by file; empty if studies are the units
    described: description for tables
    """

    files: tuple[LabelledFile, ...]
    spaces: Mapping[str, Mapping[str, tuple[str, ...]]]
    donors: Mapping[str, np.ndarray]
    described: str
    ontology: Ontology
    kept: ScoreCache = field(default_factory=ScoreCache)

    @classmethod
    def of(
        cls, files: Sequence[LabelledFile], ontology: Ontology, *, by_donor: str | None = None
    ) -> "CellFiles":
        """Build the collection from files.

        Parameters
        ----------
        by_donor: obs column whose values are the units; None: studies are the units
        """
        tissues = TissueMap(ontology)
        donors = {}
        if by_donor is not None:
            for file in files:
                donors[file.name] = read_obs_column(file.path, by_donor)[file.is_labelled]
        n_cells = sum(file.n_cells for file in files)
        n_studies = len({file.study for file in files})
        return cls(
            files=tuple(files),
            spaces={file.name: label_spaces(file, ontology, tissues) for file in files},
            donors=donors,
            described=f"{n_cells:,} cells, {len(files)} files, {n_studies} studies",
            ontology=ontology,
        )

    def scores(self, method: Method, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Return a method's scores of the labelled cells, computed once."""
        return self.kept.get(method, file, candidates)

    @cached_property
    def digest(self) -> str:
        """Digest of the files and the ontology release."""
        return " ".join([self.ontology.title, *(sha256_of(file.path) for file in self.files)])

    def parts(self, file: LabelledFile) -> list[tuple[str, np.ndarray]]:
        """Return the units of a file with their rows: its donors, or the study with all rows."""
        if file.name not in self.donors:
            return [(file.study, np.arange(file.n_cells))]
        names = self.donors[file.name]
        return [(str(name), np.flatnonzero(names == name)) for name in dict.fromkeys(names)]


class CellTask:
    """Annotation of labelled cells in three label spaces.

    Scores per space: those of `benchmarks.scoring.scoring`; `aurc`, the area under the risk-coverage
    curve with cells sorted by margin; and for annotators that return probabilities `ece`, the
    expected calibration error.
    """

    name = "cells"
    title = "what labelled cells are called: macro-F1 among the study's own types"
    figures: tuple[str, ...] = (*_SHOWN, *(each for each in _ALL if each not in _SHOWN))
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
            scores = {
                space: self._cells.scores(method, file, candidates)
                for space, candidates in self._cells.spaces[file.name].items()
            }
            for unit, rows in self._cells.parts(file):
                figures = self._figures(file, rows, scores)
                parts.setdefault(unit, []).append((len(rows), figures))
                leaks[unit] = leaks.get(unit) or self._leaks.of(method.trained_on, file)
        return combine_files(parts, leaks), []

    def _figures(
        self, file: LabelledFile, rows: np.ndarray, scores: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        figures: dict[str, float] = {}
        for space, found in scores.items():
            candidates, truth = self._cells.spaces[file.name][space], file.truth_ids[rows]
            score = score_space(truth, found[rows], candidates, self._cells.ontology)
            sure = selective(truth, found[rows], candidates)
            values = asdict(score) | sure
            figures |= {f"{space} {name}": value for name, value in values.items()}
        return figures


def combine_files(
    parts: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]], leaks: Mapping[str, str]
) -> list[Unit]:
    """Combine the sizes and scores of files into units."""
    return [
        Unit(
            name=name,
            n=sum(n for n, _ in of_unit),
            figures=rounded(average([figures for _, figures in of_unit])),
            leak=leaks.get(name, ""),
        )
        for name, of_unit in parts.items()
    ]


def selective(
    truth_ids: np.ndarray, scores: np.ndarray, candidates: Sequence[str]
) -> dict[str, float]:
    """Return `aurc`, and `ece` if the scores are probabilities, else NaN."""
    best = scores.argmax(axis=1)
    is_right = np.array(candidates, dtype=object)[best] == truth_ids
    ordered = np.sort(scores, axis=1)[:, ::-1]
    lead = ordered[:, 0] - (ordered[:, 1] if scores.shape[1] > 1 else 0)
    ece = float("nan")
    probabilities = _probabilities(scores)
    if probabilities is not None:
        sure = probabilities.max(axis=1)
        bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
        ece = calibration_error(sure, is_right, bins)
    return {"aurc": area_under_risk(lead, is_right, n_cells=len(lead)), "ece": ece}


def _probabilities(scores: np.ndarray) -> np.ndarray | None:
    """Return probabilities if the scores are probabilities or their logarithms; else None."""
    known = np.where(np.isfinite(scores), scores, 0.0)
    sums = known.sum(axis=1)
    if known.min() >= 0 and sums.max() < 1.01 and sums.mean() > 0.5:
        return known
    if scores.max() <= 0 and np.allclose(np.exp(scores).sum(axis=1), 1, atol=0.01):
        return softmax(scores, axis=1)
    return None
