"""Prompts for language models, verbatim from published benchmarks.

SOAR (Liu et al. 2024, arXiv 2412.02915) asks for the cell type of a marker list, directly
(`zero_shot`) or after reasoning (`think`, then `conclude`). CellPuzzles (Fang et al. 2025, arXiv
2506.02911) asks for the assignment of N labels to N cells.
"""

from collections.abc import Sequence

from benchmarks.language_models.chat import Message
from zeroshot.decide.puzzle_files import Genes, question
from zeroshot.decide.puzzles import Puzzle

_EXPERT = (
    "You are a biology expert who always responds the cell type annotation result by carefully "
    "considering the markers provided by the user."
)
_PUZZLES = (
    "You are an expert assistant specialized in cell type annotation. You will be given a batch of N "
    "cells from the same donor, where each cell represents a unique cell type. For each cell, the top "
    "expressed genes are provided in descending order of expression. Using both the gene expression "
    "data and donor information, determine the correct cell type for each cell. You will also receive "
    "a list of N candidate cell types, and each candidate must be assigned to exactly one cell. Ensure "
    "that you consider all cells and candidate types together, rather than annotating each cell "
    "individually. Include your detailed reasoning within <think> and </think> tags, and provide your "
    "final answer within <answer> and </answer> tags. The final answer should be a single string "
    "listing the assigned cell types in order, separated by ' | '."
)
_ANSWER = "the most likely cell type (directly return one cell type name) is"
_STEPS = "Let's think step by step."


def zero_shot(genes: Genes, tissue: str) -> list[Message]:
    """Return the prompt that asks for the type directly.

    >>> print(zero_shot(("MS4A1", "CD79A"), "PBMC")[1]["content"])
    Given the following markers [MS4A1, CD79A], what is the specific cell type in PBMC corresponding \
to these markers? The most likely cell type (directly return one cell type name) is
    """
    return _messages(_EXPERT, f"{_markers(genes, tissue)} {_ANSWER[0].upper()}{_ANSWER[1:]}")


def think(genes: Genes, tissue: str) -> list[Message]:
    """Return the prompt that asks for reasoning."""
    return _messages(_EXPERT, f"{_markers(genes, tissue)} {_STEPS}")


def conclude(genes: Genes, tissue: str, reasoning: str) -> list[Message]:
    """Return the prompt that asks for the type after the reasoning."""
    asked = f"{_markers(genes, tissue)} {_STEPS} {reasoning} In summary, {_ANSWER}"
    return _messages(_EXPERT, asked)


def match(puzzle: Puzzle, genes: Sequence[Genes]) -> list[Message]:
    """Return the prompt that asks for the label of each cell.

    Parameters
    ----------
    genes: top genes of each cell of the file
    """
    return _messages(_PUZZLES, question(puzzle, genes))


def _markers(genes: Genes, tissue: str) -> str:
    where = f" in {tissue}" if tissue else ""
    return (
        f"Given the following markers [{', '.join(genes)}], what is the specific cell type{where} "
        "corresponding to these markers?"
    )


def _messages(system: str, asked: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]
