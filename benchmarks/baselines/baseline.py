"""Annotation baselines, fitted on the training split over the genes of the study."""

import hashlib
import inspect
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np

import pretrain
from benchmarks.baselines.label_mapping import Combine, candidate_scores, class_weights
from benchmarks.data import training_cells
from benchmarks.data.studies import LabelledFile
from benchmarks.data.training_cells import Problem, drawn_rows, make_problem, read_training_split
from langcell.runtime.digest import sha256_of
from langcell.runtime.output_file import replaced_file
from langcell.runtime.version import __version__
from ontology.graph import Ontology
from pretrain.cells.memory_corpus import Corpus
from pretrain.recipe.config import Recipe
from pretrain.recipe.sources import find_sources, label_rows

_N_ROWS = 12_000
_PRETRAIN = (
    *(
        "cells/memory_corpus.py",
        "cells/sampling_kernel.py",
        "cells/mean_expression.py",
        "cells/sampling.py",
    ),
    "recipe/sources.py",
)


@dataclass(frozen=True, kw_only=True)
class BaselineMethod:
    """A baseline method.

    Attributes
    ----------
    score: returns class scores for a problem, shape (n_cells, n_classes)
    combine: how scores of the classes of a candidate are combined: sum for probabilities, else max
    packages: installed packages that the scores depend on
    narrows: True to fit only the candidates if they are fewer than the classes, where that is better
        on average; other methods are always fitted to all classes
    """

    name: str
    score: Callable[[Problem], np.ndarray]
    combine: Combine
    packages: tuple[str, ...]
    narrows: bool = False


class TrainingSplit:
    """The training split of a recipe, read lazily.

    Parameters
    ----------
    recipe: recipe with the sources, augmentation and balance
    ontology: a Cell Ontology release
    n_rows: number of cells to draw
    """

    def __init__(self, recipe: Recipe, ontology: Ontology, *, n_rows: int = _N_ROWS) -> None:
        self.recipe = recipe
        self.ontology = ontology
        self._n_rows = n_rows

    @cached_property
    def corpus(self) -> Corpus:
        """All labelled examples."""
        _log("reading the training split")
        return read_training_split(self.recipe, self.ontology)

    @cached_property
    def term_counts(self) -> dict[str, int]:
        """Number of labelled examples of each type."""
        counts: Counter[str] = Counter()
        for source in find_sources(self.recipe):
            counts.update(label_rows(source.path, self.recipe.columns, self.ontology).term_ids)
        return dict(counts)

    def problem(self, file: LabelledFile) -> Problem:
        """Return training rows and cells over the genes of a file; the last result is cached."""
        if self._last is None or self._last[0] is not file:
            self._last = file, make_problem(self.corpus, self._rows, file)
        return self._last[1]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that the rows depend on."""
        parts = [self.ontology.title, __version__, str(self._n_rows)]
        parts += [self.recipe.augmentation.model_dump_json(), self.recipe.balance.model_dump_json()]
        for source in find_sources(self.recipe):
            parts += [source.name, str(source.is_profile), source.scale, sha256_of(source.path)]
        code = [Path(training_cells.__file__)]
        code += [Path(str(pretrain.__file__)).parent / name for name in _PRETRAIN]
        return _digest(parts + [sha256_of(path) for path in code])

    _last: tuple[LabelledFile, Problem] | None = None

    @cached_property
    def _rows(self) -> training_cells.TrainingRows:
        _log(f"drawing {self._n_rows:,} cells from it")
        return drawn_rows(self.corpus, self.recipe, self._n_rows)


class Baseline:
    """Annotator fitted on the training split for each file, with scores cached on disk.

    Parameters
    ----------
    method: baseline method
    split: training data
    cache: folder of the scores; created when needed
    """

    def __init__(self, method: BaselineMethod, split: TrainingSplit, cache: Path) -> None:
        self.name = method.name
        self._method = method
        self._split = split
        self._cache = cache

    def scores(self, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Score the candidates by their classes; see `Annotator.scores`."""
        few = self._method.narrows and len(candidates) < len(self._split.term_counts)
        classes, scores = self._class_scores(file, tuple(candidates) if few else ())
        weights = class_weights(classes, candidates, self._split.ontology)
        return candidate_scores(scores, weights, self._method.combine)

    def _class_scores(
        self, file: LabelledFile, narrowed: tuple[str, ...]
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """Return classes and scores, fitted or cached; `narrowed` restricts them to candidates."""
        path = self._cache / f"{self.name}-{file.name}-{self._key(file, narrowed)}.npz"
        if not path.is_file():
            problem = self._split.problem(file)
            if narrowed:
                problem = narrowed_problem(problem, narrowed, self._split.ontology)
            _log(f"fitting {self.name} for {file.name}, {problem.train.shape[1]:,} genes", end="")
            started = time.monotonic()
            scores = self._method.score(problem)
            _log(f", {time.monotonic() - started:.0f} s")
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(path) as temporary, temporary.open("wb") as out:
                np.savez_compressed(
                    out, classes=np.array(problem.classes), scores=scores.astype(np.float32)
                )
        with np.load(path) as stored:
            return tuple(stored["classes"].tolist()), stored["scores"]

    def _key(self, file: LabelledFile, narrowed: tuple[str, ...]) -> str:
        code = Path(str(inspect.getsourcefile(self._method.score)))
        parts = [self.name, self._split.fingerprint, sha256_of(code), sha256_of(file.path)]
        parts += [f"{each} {metadata.version(each)}" for each in self._method.packages]
        return _digest([*parts, file.scale, *narrowed])[:16]


class TrainingMajority:
    """Predict the most frequent type of the training split for every cell."""

    name = "majority"

    def __init__(self, split: TrainingSplit) -> None:
        self._split = split

    def scores(self, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Score each candidate by its share of the training split; see `Annotator.scores`."""
        counts = self._split.term_counts
        weights = class_weights(tuple(counts), candidates, self._split.ontology)
        sizes = np.array(list(counts.values()), dtype=np.float32)
        row = candidate_scores(sizes[None], weights, "sum")
        return np.broadcast_to(row, (file.n_cells, len(candidates)))


class StudyMajority:
    """Predict the most frequent type of the file: a reference that uses the labels."""

    name = "oracle-majority"

    def scores(self, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Score each candidate by its share of the file's cells; see `Annotator.scores`."""
        ids, sizes = np.unique(file.truth_ids.astype(str), return_counts=True)
        size_of = dict(zip(ids.tolist(), sizes.tolist(), strict=True))
        row = np.array([size_of.get(each, 0) for each in candidates], dtype=np.float32)
        return np.broadcast_to(row, (file.n_cells, len(candidates)))


def narrowed_problem(problem: Problem, candidates: Sequence[str], ontology: Ontology) -> Problem:
    """Return the rows of classes that map to a candidate, labelled with it.

    If there are several candidates the first is used; rows of other classes are dropped.
    """
    weights = class_weights(problem.classes, candidates, ontology)
    column = np.where(weights.any(axis=1), weights.argmax(axis=1), -1)[problem.labels]
    kept = column >= 0
    present, labels = np.unique(column[kept], return_inverse=True)
    return replace(
        problem,
        train=problem.train[kept],
        is_measured=problem.is_measured[kept],
        labels=labels,
        source=problem.source[kept],
        classes=tuple(candidates[each] for each in present),
    )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _log(message: str, *, end: str = "\n") -> None:
    print(message, file=sys.stderr, end=end, flush=True)
