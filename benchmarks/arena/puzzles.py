"""Arena tasks: puzzles that assign N labels to N cells one to one."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from benchmarks.accuracy.assignment import draw_puzzles, top_genes
from benchmarks.arena.cells import CellFiles, CellScorer, combine_files
from benchmarks.arena.leaks import CellLeaks
from benchmarks.arena.results import Method, Unit
from benchmarks.baselines.puzzle_solvers import SOLVERS, solve
from benchmarks.data.studies import LabelledFile
from langcell.runtime.digest import sha256_of
from zeroshot.decide.puzzle_files import Genes, read_puzzles
from zeroshot.decide.puzzles import Answer, Puzzle, PuzzleScore, score_answers

_GENES = 25  # per cell, as in CellPuzzles
_ANSWERED = 4  # puzzles per size and study that a language model is asked


@runtime_checkable
class PuzzleAnswerer(Protocol):
    """Protocol of annotators that solve puzzles from the top genes of cells."""

    def puzzle_answers(
        self, puzzles: Sequence[Puzzle], genes: Sequence[Genes]
    ) -> Sequence[Answer | None]:
        """Return the labels of each puzzle, None if the answer has the wrong format.

        Parameters
        ----------
        puzzles: their `cells` are indices into `genes`
        genes: genes of each cell, highest expression first
        """
        ...


class PuzzleTask:
    """Puzzles drawn from labelled files, as `benchmarks.accuracy.assignment` draws them.

    With annotators that score cells, puzzles are solved jointly (`batch_accuracy`, `cell_accuracy`),
    and by `argmax`, the best label of each cell; its `uniqueness` is the share of distinct labels.
    Annotators that answer in text get the top genes of each cell, and fewer puzzles.
    """

    name = "puzzles"
    title = "CellPuzzles: N cells of a donor, N labels; share of puzzles right in every cell"
    figures: tuple[str, ...] = (
        *("batch_accuracy", "cell_accuracy", "reward", "uniqueness", "format_validity"),
        *("argmax batch_accuracy", "argmax cell_accuracy", "argmax uniqueness"),
    )
    by_row = False

    def __init__(self, cells: CellFiles, leaks: CellLeaks, *, n_puzzles: int) -> None:
        self._cells = cells
        self._leaks = leaks
        self._n = n_puzzles
        self.data = f"{n_puzzles} puzzles of each size from 4 to 10 of {cells.described}"
        self.digest = f"{cells.digest} {n_puzzles}"

    def takes(self, annotator: object) -> bool:
        """Accept annotators that score cells or answer puzzles."""
        return isinstance(annotator, CellScorer | PuzzleAnswerer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Solve the puzzles of every file that has enough types."""
        annotator = method.annotator
        parts: dict[str, list[tuple[int, dict[str, float]]]] = {}
        leaks: dict[str, str] = {}
        terms = self._cells.ontology.terms
        for file in self._cells.files:
            names = np.array([terms[term_id].name for term_id in file.truth_ids])
            sets = list(draw_puzzles(file, names, 0, self._n))
            if isinstance(annotator, CellScorer):
                table = self._similarities(method, file)
                found = [_solved(each, table) for each in sets]
            else:
                assert isinstance(annotator, PuzzleAnswerer)
                genes = top_genes(file, _GENES)
                found = [_answered(annotator, each[:_ANSWERED], genes) for each in sets]
            if found:
                mean = pd.DataFrame(found).mean()
                figures = {str(name): float(value) for name, value in mean.items()}
                n = sum(len(each) for each in sets)
                parts.setdefault(file.study, []).append((n, figures))
                leaks[file.study] = leaks.get(file.study) or self._leaks.of(method.trained_on, file)
        return combine_files(parts, leaks), list(getattr(annotator, "notes", ()))

    def _similarities(self, method: Method, file: LabelledFile) -> pd.DataFrame:
        own = self._cells.spaces[file.name]["own"]
        scores = self._cells.scores(method, file, own)
        # A label that an annotator cannot predict must still be assigned to a cell.
        lowest = np.where(np.isfinite(scores), scores, np.inf).min()
        floor = lowest - 1 if np.isfinite(lowest) else 0.0
        filled = np.where(np.isfinite(scores), scores, floor)
        return pd.DataFrame(filled, columns=[self._cells.ontology.terms[each].name for each in own])


class PuzzleFileTask:
    """Puzzles of a file in the format of CellPuzzles, for models and language models."""

    name = "puzzle-file"
    title = "CellPuzzles from a file; share of puzzles right in every cell"
    figures: tuple[str, ...] = (
        "batch_accuracy",
        "cell_accuracy",
        "reward",
        "uniqueness",
        "format_validity",
    )
    by_row = True

    def __init__(self, path: Path) -> None:
        self._given = read_puzzles(path)
        self.data = f"{len(self._given.puzzles):,} puzzles, {path.name}"
        self.digest = sha256_of(path)

    def takes(self, annotator: object) -> bool:
        """Accept annotators that answer puzzles."""
        return isinstance(annotator, PuzzleAnswerer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Return the scores of each puzzle size."""
        annotator = method.annotator
        assert isinstance(annotator, PuzzleAnswerer)
        by_size: dict[str, list[Puzzle]] = {}
        for puzzle in self._given.puzzles:
            by_size.setdefault(f"{len(puzzle.cells)} cells", []).append(puzzle)
        parts = {
            size: [(len(some), _answered(annotator, some, self._given.genes))]
            for size, some in by_size.items()
        }
        return combine_files(parts, {}), list(getattr(annotator, "notes", ()))


def _answered(
    annotator: PuzzleAnswerer, puzzles: Sequence[Puzzle], genes: Sequence[Genes]
) -> dict[str, float]:
    return _figures(score_answers(puzzles, list(annotator.puzzle_answers(puzzles, genes))))


def _solved(puzzles: Sequence[Puzzle], similarities: pd.DataFrame) -> dict[str, float]:
    def score(solver: str) -> dict[str, float]:
        answers = solve(puzzles, similarities, SOLVERS[solver], seed=0)
        return _figures(score_answers(puzzles, answers))

    own = score("argmax")
    names = ("batch_accuracy", "cell_accuracy", "uniqueness")
    return score("joint") | {f"argmax {name}": own[name] for name in names}


def _figures(score: PuzzleScore) -> dict[str, float]:
    return {name: value for name, value in asdict(score).items() if not name.startswith("n_")}
