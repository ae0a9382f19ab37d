"""Read and write CellPuzzles files: questions with the top genes of each cell.

The data set ncbi/CellPuzzles has three texts per puzzle: `system_msg`, `user_msg` (a line of
context, a line "Cell i: GENE, GENE, ..." for each cell, the candidates) and `assistant_msg` (the
labels in the order of the cells, "a | b | c", possibly after a reasoning text).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from anndata import AnnData
from scipy import sparse

from langcell.counts.reader import open_counts
from langcell.genes.gene_table import GeneTable
from langcell.model.embed_cells import embed_cells
from zeroshot.decide.puzzles import SEPARATOR, Puzzle, split_labels

if TYPE_CHECKING:
    from langcell.model.embedder import Embedder

SUFFIXES = (".json", ".jsonl", ".parquet")
_CELL = re.compile(r"^Cell (\d+): *(.*)$", re.MULTILINE)
_OFFER = "Match the cells above to one of the following cell types:"
_SYSTEM = (
    "Name the type of each cell of a batch from one donor. Every candidate belongs to one cell. "
    f"Answer with <think>...</think> and, on a new line, <answer>label{SEPARATOR}label</answer>."
)

Genes = tuple[str, ...]  # top genes of one cell, highest expression first


@dataclass(frozen=True, kw_only=True)
class PuzzleFile:
    """Puzzles and the genes of their cells.

    Attributes
    ----------
    puzzles: the puzzles; their `cells` are indices of `genes`
    genes: top genes of each cell
    """

    puzzles: tuple[Puzzle, ...]
    genes: tuple[Genes, ...]


def read_puzzles(path: str | Path) -> PuzzleFile:
    """Read the puzzles of a file.

    Parameters
    ----------
    path: .json (a list of puzzles), .jsonl (one per line) or .parquet

    Raises
    ------
    ValueError, OSError
        If the file cannot be read, or a record is not a puzzle; the message names the record.
    """
    path = Path(path)
    puzzles: list[Puzzle] = []
    genes: list[Genes] = []
    for number, record in enumerate(_records(path), start=1):
        try:
            context, cells, candidates, labels = _parse(record)
            rows = tuple(range(len(genes), len(genes) + len(cells)))
            puzzle = Puzzle(cells=rows, labels=labels, context=context)
        except ValueError as error:
            raise ValueError(f"{path}, record {number}: {error}") from error
        if set(puzzle.labels) != set(candidates):
            raise ValueError(
                f"{path}, record {number}: the answer must use each candidate once, got "
                f"{SEPARATOR.join(labels)} for {SEPARATOR.join(candidates)}"
            )
        puzzles.append(puzzle)
        genes += cells
    if not puzzles:
        raise ValueError(f"{path} has no puzzles")
    return PuzzleFile(puzzles=tuple(puzzles), genes=tuple(genes))


def write_puzzles(path: str | Path, puzzles: Sequence[Puzzle], genes: Sequence[Genes]) -> None:
    """Write puzzles to a .json file for language models; `read_puzzles` reads it.

    Parameters
    ----------
    path: file to write
    puzzles: the puzzles; their `cells` are indices of `genes`
    genes: top genes of each cell, highest expression first
    """
    records = [
        {
            "system_msg": _SYSTEM,
            "user_msg": question(puzzle, genes),
            "assistant_msg": SEPARATOR.join(puzzle.labels),
        }
        for puzzle in puzzles
    ]
    text = json.dumps(records, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def question(puzzle: Puzzle, genes: Sequence[Genes]) -> str:
    """Return the question of a puzzle: context, cells and candidates."""
    cells = [f"Cell {i}: {', '.join(genes[row])}" for i, row in enumerate(puzzle.cells, start=1)]
    offered = [_OFFER, *puzzle.candidates]
    return "\n\n".join([f"Context: {puzzle.context}", "\n".join(cells), "\n".join(offered)])


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: puzzles must be a {', '.join(SUFFIXES)} file")
    if path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
        return
    text = path.read_text(encoding="utf-8")
    try:
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        found = [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not {path.suffix[1:]}: {error}") from error
    yield from found if path.suffix == ".jsonl" else found[0] if found else []


def _parse(record: Any) -> tuple[str, list[Genes], tuple[str, ...], tuple[str, ...]]:
    """Return context, genes of each cell, candidates and labels."""
    question, answer = (
        record.get(name) if isinstance(record, dict) else None
        for name in ("user_msg", "assistant_msg")
    )
    if not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError("a puzzle must have the texts user_msg and assistant_msg")
    body, offer, offered = question.partition(_OFFER)
    cells = _CELL.findall(body)
    if not offer or [int(number) for number, _ in cells] != list(range(1, len(cells) + 1)):
        raise ValueError(f"user_msg must have lines 'Cell 1: GENE, ...' and then {_OFFER!r}")
    context = _CELL.split(body, maxsplit=1)[0].strip().removeprefix("Context:").strip()
    genes = [tuple(each.strip() for each in names.split(",") if each.strip()) for _, names in cells]
    candidates = tuple(line.strip() for line in offered.splitlines() if line.strip())
    if "<answer>" in answer:
        answer = answer.rpartition("<answer>")[2].partition("</answer>")[0]
    return context, genes, candidates, split_labels(answer)


def embed_gene_lists(
    model: "Embedder", genes: Sequence[Genes], *, in_order: bool = False
) -> np.ndarray:
    """Embed cells of which only the ranked top genes are known.

    The model ranks genes by expression relative to the corpus, but a list has no expression values.
    The expression of the gene at rank r is taken as 1 / r of the first, as it decays in most cells
    (Furusawa & Kaneko 2003, PRL 90:088102). On the validation studies other decays were as good, and
    constant expression was slightly worse.

    Parameters
    ----------
    model: any checkpoint
    genes: top genes of each cell, highest expression first; symbols or Ensembl ids
    in_order: the lists are already ranked relative to other cells, like markers; keep their order

    Returns
    -------
    float32, unit norm, shape (n_cells, embedding_dim)
    """
    names = sorted({name for each in genes for name in each})
    column_of = {name: column for column, name in enumerate(names)}
    columns = [column_of[name] for each in genes for name in dict.fromkeys(each)]
    sizes = [len(dict.fromkeys(each)) for each in genes]
    values = np.concatenate([1000 / np.arange(1, size + 1) for size in sizes])
    if in_order:
        values *= _medians(model, names)[columns]  # undo the division by medians in ranking
    counts = sparse.csr_matrix(
        (values.astype(np.float32), columns, np.append(0, np.cumsum(sizes))),
        shape=(len(genes), len(names)),
    )
    counts.sort_indices()
    adata = AnnData(counts, var=pd.DataFrame(index=names))
    with open_counts(adata, scale="linear") as matrix:
        # Lists are short: do not check how many genes were measured.
        blocks = embed_cells(model, matrix, check_coverage=False)
        return np.concatenate([block.features for block in blocks])


def _medians(model: "Embedder", names: Sequence[str]) -> np.ndarray:
    """Return the corpus median of each gene, 1 for genes outside the vocabulary of the model."""
    tokens = model.genes.token_ids(GeneTable.bundled().resolve(np.array(names)).ensembl_ids)
    return np.where(tokens >= 0, model.genes.token_medians[tokens], 1.0)
