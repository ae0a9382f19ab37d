"""One-to-one assignment of labels to cells: `python -m benchmarks.accuracy.assignment`.

Puzzles as in CellPuzzles (Fang et al. 2025, arXiv 2506.02911): N cells of one donor, N labels, each
for one cell. They are drawn from the validation studies, within a donor or condition if a file has
them. Four solvers: a random permutation; the best label of each cell (argmax); repeatedly the best
remaining pair (greedy); the best joint assignment. `cell` is the share of correct cells, `batch` of
puzzles with all cells correct, `reward` that of the paper: -1 if a label is used twice. Files of a
study are averaged first, then studies; nothing was tuned on the puzzles, but the models were selected
on these studies.

With `--genes 25` the model sees only the 25 top genes of a cell in order, as in the released puzzles;
with `--puzzles FILE` the puzzles of a file in that format are solved instead.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.baselines.puzzle_solvers import SOLVERS, label_similarities, solve
from benchmarks.data.arguments import add_models, make_parser, parse
from benchmarks.data.studies import LabelledFile, read_validation_files
from benchmarks.scoring.model_scores import file_features
from langcell.counts.obs_columns import read_obs_column
from langcell.counts.reader import open_counts
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.decide.puzzle_files import Genes, embed_gene_lists, read_puzzles
from zeroshot.decide.puzzles import Puzzle, build_puzzles, score_answers

SIZES = range(4, 11)
GROUPS = ("donor", "condition")  # obs columns; the first available is used


def draw_puzzles(
    file: LabelledFile, names: np.ndarray, seed: int, n: int
) -> Iterator[list[Puzzle]]:
    """Yield puzzles of labelled cells, of each size that the types of a file allow."""
    groups = None
    for column in GROUPS:
        try:
            groups = read_obs_column(file.path, column)[file.is_labelled]
        except ValueError:
            continue
        break
    for size in SIZES:
        try:
            yield build_puzzles(names, groups, n_cells=size, n_puzzles=n, seed=seed)
        except ValueError:
            return  # no group has enough types


def top_genes(file: LabelledFile, n_genes: int) -> list[Genes]:
    """Return the names of the top genes of each labelled cell, highest expression first."""
    with open_counts(file.path, scale=file.scale) as matrix:
        counts = sparse.vstack([block.counts for block in matrix.blocks()]).tocsr()
        names = matrix.gene_names
    cells = []
    for row in np.flatnonzero(file.is_labelled):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        order = np.lexsort((counts.indices[part], -counts.data[part]))[:n_genes]
        cells.append(tuple(map(str, names[counts.indices[part][order]])))
    return cells


def measure(
    model: LangCell,
    files: Sequence[LabelledFile],
    ontology: Ontology,
    *,
    seeds: int,
    n_puzzles: int,
    n_genes: int | None,
) -> pd.DataFrame:
    """Score every solver; return one row per solver, size and study."""
    rows = []
    for file in files:
        print(file.name, file=sys.stderr, flush=True)
        names = np.array([ontology.terms[term_id].name for term_id in file.truth_ids])
        if n_genes is None:
            features = file_features(model, file)
        else:
            features = embed_gene_lists(model, top_genes(file, n_genes))
        table = label_similarities(model, features, sorted(set(names)), ontology)
        for seed in range(seeds):
            for puzzles in draw_puzzles(file, names, seed, n_puzzles):
                size = len(puzzles[0].cells)
                for solver in SOLVERS:
                    answers = solve(puzzles, table, SOLVERS[solver], seed=seed)
                    found = asdict(score_answers(puzzles, answers))
                    rows.append({"solver": solver, "size": size, "study": file.study, **found})
    return pd.DataFrame(rows).groupby(["solver", "size", "study"]).mean().reset_index()


def measure_file(model: LangCell, path: Path, ontology: Ontology, *, seeds: int) -> pd.DataFrame:
    """Score every solver on the puzzles of a file, as `measure` does."""
    given = read_puzzles(path)
    features = embed_gene_lists(model, given.genes)
    labels = sorted({name for puzzle in given.puzzles for name in puzzle.labels})
    table = label_similarities(model, features, labels, ontology)
    rows = []
    for size in sorted({len(puzzle.cells) for puzzle in given.puzzles}):
        puzzles = [puzzle for puzzle in given.puzzles if len(puzzle.cells) == size]
        for solver in SOLVERS:
            for seed in range(seeds if solver == "random" else 1):
                answers = solve(puzzles, table, SOLVERS[solver], seed=seed)
                found = asdict(score_answers(puzzles, answers))
                rows.append({"solver": solver, "size": size, "study": path.stem, **found})
    return pd.DataFrame(rows).groupby(["solver", "size", "study"]).mean().reset_index()


def print_table(name: str, found: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Print batch and cell accuracy by size, and return the means over sizes and studies."""
    sizes = sorted(found["size"].unique())
    studies = {size: found[found["size"] == size].study.nunique() for size in sizes}
    print(f"\n{name}: {found.study.nunique()} studies")
    print(f"{'cells a puzzle':<16}" + "".join(f"{size:>7}" for size in sizes) + f"{'mean':>7}")
    print(f"{'studies':<16}" + "".join(f"{studies[size]:>7}" for size in sizes))
    figures: dict[str, dict[str, float]] = {solver: {} for solver in SOLVERS}
    for figure in ("batch_accuracy", "cell_accuracy", "reward"):
        for solver in SOLVERS:
            part = found[found.solver == solver]
            by_size = part.groupby("size")[figure].mean()
            mean = part.groupby("study")[figure].mean().mean()
            print(
                f"{figure.split('_')[0]:<7}{solver:<9}"
                + "".join(f"{by_size[size]:>7.3f}" for size in sizes)
                + f"{mean:>7.3f}"
            )
            figures[solver] |= {f"{figure}_{size}": round(by_size[size], 4) for size in sizes}
            figures[solver][figure] = round(float(mean), 4)
    return figures


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser)
    parser.add_argument("--seeds", type=int, default=3, help="sets of puzzles per size")
    parser.add_argument("--n-puzzles", type=int, default=200, help="in each set")
    parser.add_argument("--genes", type=int, default=None, help="top genes per cell to use")
    parser.add_argument("--puzzles", type=Path, default=None, help="file in CellPuzzles' format")
    parser.add_argument("--device", default="cpu")
    return parse(parser)


def main() -> None:
    """Print a table per model, and one JSON line."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    results, digests = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
        try:
            for name in arguments.model or ["mini-fast"]:
                model = LangCell.from_pretrained(name, device=arguments.device)
                if arguments.puzzles:
                    found = measure_file(model, arguments.puzzles, ontology, seeds=arguments.seeds)
                else:
                    found = measure(
                        model,
                        read_validation_files(arguments.shared / "corpus"),
                        ontology,
                        seeds=arguments.seeds,
                        n_puzzles=arguments.n_puzzles,
                        n_genes=arguments.genes,
                    )
                results[name] = print_table(name, found)
                digests[name] = model.sha256
        except (OSError, ValueError) as error:
            sys.exit(str(error))
    record = {
        "benchmark": "assignment",
        "models": digests,
        "data": str(arguments.puzzles or "validation studies"),
        "seeds": arguments.seeds,
        "genes": arguments.genes,
    }
    print(json.dumps({**record, "figures": results}))


if __name__ == "__main__":
    main()
