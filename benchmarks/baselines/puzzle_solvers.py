"""Solvers of puzzles that assign N labels to N cells one to one."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from benchmarks.scoring.model_scores import candidate_scores
from langcell.model.embedder import Embedder
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.decide.assignment import best_assignment
from zeroshot.decide.puzzles import Puzzle
from zeroshot.labels.candidates import FREE_TEXT, own_candidates

# From log-probabilities of the candidates, (n_cells, n_cells), to a candidate per cell.
Solver = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def greedy(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Repeatedly take the most likely pair of the remaining cells and labels."""
    left, answer = table.copy(), np.empty(len(table), dtype=np.int64)
    for _ in range(len(table)):
        cell, label = np.unravel_index(left.argmax(), left.shape)
        answer[cell] = label
        left[cell], left[:, label] = -np.inf, -np.inf
    return answer


SOLVERS: dict[str, Solver] = {
    "random": lambda table, rng: rng.permutation(len(table)),
    "argmax": lambda table, rng: table.argmax(axis=1),
    "greedy": greedy,
    "joint": lambda table, rng: best_assignment(table),
}


def solve(
    puzzles: Sequence[Puzzle], similarities: pd.DataFrame, solver: Solver, *, seed: int
) -> list[tuple[str, ...]]:
    """Solve each puzzle.

    Parameters
    ----------
    puzzles: their cells are rows of the table
    similarities: scaled similarities, one row per cell and one column per label
    solver: one of `SOLVERS`
    seed: seed of the solver
    """
    rng = np.random.default_rng(seed)
    values, place = similarities.to_numpy(), {name: i for i, name in enumerate(similarities)}
    answers = []
    for puzzle in puzzles:
        columns = [place[name] for name in puzzle.candidates]
        table = log_softmax(values[np.ix_(puzzle.cells, columns)], axis=1)
        answers.append(tuple(puzzle.candidates[each] for each in solver(table, rng)))
    return answers


def label_similarities(
    model: Embedder, features: np.ndarray, labels: Sequence[str], ontology: Ontology
) -> pd.DataFrame:
    """Score cells against labels as with `--labels`; labels without a term are free text."""
    found = LabelResolver(ontology).resolve(labels)
    keys = [each.term_id or f"{FREE_TEXT} {each.label}" for each in found]
    candidates = own_candidates(keys, ontology)
    scores = candidate_scores(model, features, candidates)
    columns = [candidates.keys.index(key) for key in keys]
    return pd.DataFrame(scores[:, columns], columns=list(labels))
