"""CellPuzzles: match cells and labels one to one, and score the answers.

Fang et al. 2025 (Cell-o1, arXiv 2506.02911): a puzzle has a batch of cells of one donor, all of
different types, and the list of these types.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEPARATOR = " | "
_RESPONSE = re.compile(r"<think>(.*?)</think>\n<answer>(.*?)</answer>", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")

Answer = tuple[str, ...]  # label of each cell, in order


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """Cells to match with labels.

    Attributes
    ----------
    cells: rows of the cells in their source
    labels: true label of each cell
    context: information about the donor
    """

    cells: tuple[int, ...]
    labels: Answer
    context: str = ""

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ValueError(
                "a puzzle must have one label per cell, all different, got "
                f"{len(self.cells)} cells and the labels {SEPARATOR.join(self.labels)}"
            )

    @property
    def candidates(self) -> tuple[str, ...]:
        """The labels in alphabetical order, which does not reveal the answer."""
        return tuple(sorted(self.labels))


@dataclass(frozen=True, kw_only=True)
class PuzzleScore:
    """Metrics of the answers to a set of puzzles, as in the paper.

    Attributes
    ----------
    cell_accuracy: share of all cells with the correct label
    batch_accuracy: share of puzzles with all cells correct
    format_validity: share of responses in the required format
    uniqueness: distinct labels / labels in an answer, mean over puzzles
    reward: mean of `puzzle_reward`
    """

    n_puzzles: int
    n_cells: int
    cell_accuracy: float
    batch_accuracy: float
    format_validity: float
    uniqueness: float
    reward: float


def build_puzzles(
    labels: Sequence[str] | np.ndarray,
    groups: Sequence[str] | np.ndarray | None = None,
    *,
    n_cells: int,
    n_puzzles: int,
    seed: int = 0,
) -> list[Puzzle]:
    """Sample puzzles from labelled cells.

    For each puzzle, sample a group with enough types, then types of the group, then one cell of each
    type, all uniformly.

    Parameters
    ----------
    labels: type of each cell, '' if unknown, shape (n_rows,)
    groups: donor of each cell, '' for none; None if all cells are of one donor
    n_cells: cells per puzzle, at least 2
    n_puzzles: number of puzzles
    seed: seed of the random generator

    Raises
    ------
    ValueError
        If no group has `n_cells` types.
    """
    if n_cells < 2:
        raise ValueError(f"a puzzle needs at least 2 cells, got {n_cells}")
    labels = np.asarray(labels, dtype=str)
    groups = np.full(len(labels), "all") if groups is None else np.asarray(groups, dtype=str)
    members: dict[str, dict[str, np.ndarray]] = {}
    for group in sorted(set(groups) - {""}):
        inside = (groups == group) & (labels != "")
        types = sorted(set(labels[inside]))
        members[group] = {name: np.flatnonzero(inside & (labels == name)) for name in types}
    large = [group for group, types in members.items() if len(types) >= n_cells]
    if not large:
        most = max(map(len, members.values()), default=0)
        raise ValueError(
            f"puzzles of {n_cells} cells need a group with {n_cells} types, got at most {most}; use "
            "fewer cells per puzzle, or larger groups"
        )
    rng = np.random.default_rng(seed)
    puzzles = []
    for _ in range(n_puzzles):
        group = large[rng.integers(len(large))]
        types = list(members[group])
        chosen = [types[each] for each in rng.permutation(len(types))[:n_cells]]
        cells = tuple(int(rng.choice(members[group][name])) for name in chosen)
        puzzles.append(Puzzle(cells=cells, labels=tuple(chosen), context=group))
    return puzzles


def response(answer: Answer, *, reasoning: str = "") -> str:
    r"""Format an answer as the task requires.

    >>> response(("B cell", "T cell"))
    '<think></think>\n<answer>B cell | T cell</answer>'
    """
    return f"<think>{reasoning}</think>\n<answer>{SEPARATOR.join(answer)}</answer>"


def read_response(text: str) -> Answer | None:
    """Parse the labels of a response; return None if it is not in the required format.

    As in the released evaluation of Cell-o1, each tag must occur once, with nothing outside of them,
    and the answer must contain a "|".
    """
    found = _RESPONSE.fullmatch(text)
    if not found or any(text.count(tag) != 1 for tag in _TAGS) or "|" not in found[2]:
        return None
    return split_labels(found[2])


def split_labels(text: str) -> Answer:
    """Split an answer at "|"."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


def puzzle_reward(answer: Answer | None, puzzle: Puzzle) -> float:
    """Return the reward that Cell-o1 was trained with.

    -1 if the response is not in the required format, has too few or too many labels, or repeats one;
    otherwise the mean of the share of correct cells and of 1 if all are correct, else 0.
    """
    if answer is None or len(answer) != len(puzzle.labels) or len(set(answer)) != len(answer):
        return -1.0
    share = n_right(answer, puzzle) / len(puzzle.labels)
    return (share + (share == 1)) / 2


def n_right(answer: Answer | None, puzzle: Puzzle) -> int:
    """Count the correct labels of an answer, ignoring case."""
    pairs = zip(answer or (), puzzle.labels, strict=False)
    return sum(given.casefold() == label.casefold() for given, label in pairs)


def score_answers(puzzles: Sequence[Puzzle], answers: Sequence[Answer | None]) -> PuzzleScore:
    """Compute the metrics of answers, None for a response that is not in the required format.

    Raises
    ------
    ValueError
        If there is not one answer per puzzle, or there are no puzzles.
    """
    if len(puzzles) != len(answers) or not puzzles:
        raise ValueError(
            f"answers must have one entry per puzzle ({len(puzzles)}), got {len(answers)}"
        )
    pairs = list(zip(answers, puzzles, strict=True))
    right = [n_right(answer, puzzle) for answer, puzzle in pairs]
    sizes = [len(puzzle.labels) for puzzle in puzzles]
    unique = [len(set(answer)) / len(answer) if answer else 0.0 for answer in answers]
    return PuzzleScore(
        n_puzzles=len(puzzles),
        n_cells=sum(sizes),
        cell_accuracy=sum(right) / sum(sizes),
        batch_accuracy=float(np.mean(np.array(right) == sizes)),
        format_validity=float(np.mean([answer is not None for answer in answers])),
        uniqueness=float(np.mean(unique)),
        reward=float(np.mean([puzzle_reward(answer, puzzle) for answer, puzzle in pairs])),
    )
