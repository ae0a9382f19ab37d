"""Robustness to shallow data and missing genes: `python -m benchmarks.accuracy.robustness --model mini`.

Macro-F1 over all types among the study's own labels, on the original and changed validation studies:
counts downsampled binomially, genes dropped at random. Then the same genes under other names: every
cell must get the same prediction among all cell types. Values that are not counts (log1p, TPM) are
downsampled as multiples of the smallest value of their cell. Files of a study are averaged first.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from benchmarks.baselines.annotators import Annotator, LangCellAnnotator
from benchmarks.data.arguments import add_models, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.scoring import by_study, score_space
from langcell.checkpoints.checkpoint import list_bundled_models
from langcell.counts.reader import open_counts
from langcell.genes.gene_table import GeneTable
from langcell.model.langcell import LangCell
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from zeroshot.annotation.options import AnnotateOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """All rows of a file.

    Attributes
    ----------
    counts: counts, or linear values in units of the smallest of their cell, (n_cells, n_genes)
    names: gene names as published, object, shape (n_genes,)
    ensembl_ids: their Ensembl ids, '' if unknown, object, shape (n_genes,)
    """

    counts: sparse.csr_matrix
    names: np.ndarray
    ensembl_ids: np.ndarray


Change = Callable[[Cells, np.random.Generator], Cells]


def thinned(share: float) -> Change:
    """Return a change that keeps each count with a probability."""

    def change(cells: Cells, rng: np.random.Generator) -> Cells:
        counts = cells.counts.copy()
        counts.data = rng.binomial(np.rint(counts.data).astype(np.int64), share).astype(np.float32)
        counts.eliminate_zeros()
        return replace(cells, counts=counts)

    return change


def without_genes(share: float) -> Change:
    """Return a change that drops a share of the genes, as if they were not measured."""

    def change(cells: Cells, rng: np.random.Generator) -> Cells:
        n_genes = len(cells.names)
        kept = np.sort(rng.permutation(n_genes)[: n_genes - round(share * n_genes)])
        return Cells(
            counts=cells.counts[:, kept],
            names=cells.names[kept],
            ensembl_ids=cells.ensembl_ids[kept],
        )

    return change


def as_published(cells: Cells, rng: np.random.Generator) -> Cells:
    """Return the cells unchanged."""
    return cells


def by_ensembl_id(cells: Cells, rng: np.random.Generator) -> Cells:
    """Name genes by Ensembl id; unknown names are kept."""
    return replace(cells, names=np.where(cells.ensembl_ids != "", cells.ensembl_ids, cells.names))


def by_symbol(cells: Cells, rng: np.random.Generator) -> Cells:
    """Name genes by their current symbol, if it is unique."""
    table = GeneTable.bundled()
    symbols = np.array([table.symbol(each) if each else "" for each in cells.ensembl_ids], object)
    is_sure = table.resolve(symbols).ensembl_ids == cells.ensembl_ids
    ids = by_ensembl_id(cells, rng)
    return replace(ids, names=np.where(is_sure & (cells.ensembl_ids != ""), symbols, ids.names))


COSTLY: dict[str, Change] = {
    "as published": as_published,
    "counts x 0.5": thinned(0.5),
    "counts x 0.2": thinned(0.2),
    "70 % of genes": without_genes(0.3),
}
NEUTRAL: dict[str, Change] = {"Ensembl ids": by_ensembl_id, "symbols": by_symbol}


def read_cells(file: LabelledFile) -> Cells:
    """Read all cells of a file."""
    with open_counts(file.path, scale=file.scale) as matrix:
        counts = sparse.vstack([block.counts for block in matrix.blocks()]).tocsr()
        names, ensembl_ids = matrix.gene_names, matrix.resolution.ensembl_ids
    if file.scale != "counts":
        counts.eliminate_zeros()
        filled = np.flatnonzero(np.diff(counts.indptr))
        units = np.ones(counts.shape[0])
        units[filled] = np.minimum.reduceat(counts.data, counts.indptr[filled])
        counts.data /= np.repeat(units, np.diff(counts.indptr))
    return Cells(counts=counts, names=names, ensembl_ids=ensembl_ids)


def write_changed(file: LabelledFile, change: Change, folder: Path, seed: int) -> LabelledFile:
    """Write a changed copy of a file and return it with the labels of the original."""
    cells = change(read_cells(file), np.random.default_rng(seed))
    path = folder / f"{file.name}.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gene names are not unique in some files
        adata = AnnData(X=cells.counts.astype(np.float32))
        adata.var_names = cells.names.astype(str)
        adata.write_h5ad(path)
    return replace(file, path=path, scale="counts" if file.scale == "counts" else "linear")


def macro_f1(
    annotator: Annotator,
    files: Sequence[LabelledFile],
    change: Change,
    ontology: Ontology,
    *,
    seed: int,
) -> pd.Series:
    """Return macro-F1 over all own types with a change, by study."""
    scores: dict[str, list] = {file.study: [] for file in files}
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            changed = write_changed(file, change, Path(folder), seed + number)
            own = tuple(sorted(set(file.truth_ids)))
            found = annotator.scores(changed, own)
            scores[file.study].append(score_space(file.truth_ids, found, own, ontology))
    return by_study(scores)["macro_f1_all"]


def share_of_equal_calls(
    annotator: Annotator, files: Sequence[LabelledFile], change: Change, ontology: Ontology
) -> float:
    """Return the share of cells of all files with the same prediction after a change."""
    candidates = all_cell_types(ontology)
    n_equal = 0
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            calls = [
                annotator.scores(write_changed(file, each, Path(folder), 0), candidates).argmax(1)
                for each in (as_published, change)
            ]
            n_equal += int((calls[0] == calls[1]).sum())
    return n_equal / sum(file.n_cells for file in files)


def measure(
    annotator: Annotator, files: Sequence[LabelledFile], ontology: Ontology, *, seed: int
) -> dict[str, dict[str, float]]:
    """Print the table of one annotator and return its scores."""
    print(f"\n{annotator.name}: macro-F1 of own labels, {len(files)} files", flush=True)
    print(f"{'':<16}{'mean':>7}{'cost':>7}{'worst':>7}  of study")
    figures: dict[str, dict[str, float]] = {}
    whole = pd.Series(dtype=float)
    for name, change in COSTLY.items():
        found = macro_f1(annotator, files, change, ontology, seed=seed)
        whole = found if whole.empty else whole
        cost = whole - found
        print(
            f"{name:<16}{found.mean():>7.3f}{cost.mean():>7.3f}{cost.max():>7.3f}  {cost.idxmax()}",
            flush=True,
        )
        figures[name] = {"mean": found.mean(), "cost": cost.mean(), "worst": cost.max()} | dict(
            found
        )
    for name, change in NEUTRAL.items():
        share = share_of_equal_calls(annotator, files, change, ontology)
        print(f"{name:<16}{share:>7.4f}  of the calls are the same", flush=True)
        figures[name] = {"equal_calls": share}
    return {
        name: {key: round(float(value), 4) for key, value in row.items()}
        for name, row in figures.items()
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser, "every bundled model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parse(parser)


def main() -> None:
    """Print a table per model, and one JSON line."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    files = validation_files(arguments)
    results, digests = {}, {}
    with warnings.catch_warnings():
        # Low coverage of small gene panels, and cells left empty by downsampling.
        warnings.simplefilter("ignore", UserWarning)
        for name in arguments.model or list_bundled_models():
            model = LangCell.from_pretrained(name, device=arguments.device)
            annotator = LangCellAnnotator(name, model, ontology, AnnotateOptions())
            results[name] = measure(annotator, files, ontology, seed=arguments.seed)
            digests[name] = model.sha256
    record = {"benchmark": "robustness", "seed": arguments.seed, "models": digests}
    print(json.dumps({**record, "figures": results}))


if __name__ == "__main__":
    main()
