"""The training corpus in memory: linear expression values of labelled cells and profiles."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from langcell.counts.reader import open_counts
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.corpus.token_genes import token_genes
from pretrain.recipe.cell_config import Columns
from pretrain.recipe.sources import LabelledRows, SourceFile, label_rows


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """Rows, types and genes kept of one file."""

    name: str
    n_rows: int
    n_kept: int
    n_terms: int
    n_genes: int
    n_replaced: int
    unknown: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Labelled examples of all training files over a common set of genes.

    Attributes
    ----------
    values
        Counts or other linear values, CSR float32, shape (n_examples, n_genes); for sources of scale
        `ranks`, linear values in the same order (`spread_ranks`).
    ensembl_ids
        Gene of each column.
    measured
        True where a source measured the gene, shape (n_sources, n_genes).
    sources
        File behind each row of `measured`.
    source, term, study, aspect
        Index into `sources`, `term_ids`, `studies` and `aspects` of each example, (n_examples,).
    is_integral
        True where all values of a source are whole numbers, shape (n_sources,).
    term_ids, studies, aspects
        Distinct values; an aspect is (tissue, disease, stage).
    """

    values: sparse.csr_matrix
    ensembl_ids: tuple[str, ...]
    measured: np.ndarray
    sources: tuple[SourceFile, ...]
    source: np.ndarray
    term: np.ndarray
    study: np.ndarray
    aspect: np.ndarray
    is_integral: np.ndarray
    term_ids: tuple[str, ...]
    studies: tuple[str, ...]
    aspects: tuple[tuple[str, str, str], ...]
    reports: tuple[FileReport, ...]

    @property
    def n_examples(self) -> int:
        """Number of labelled cells and profiles."""
        return self.values.shape[0]

    @property
    def types(self) -> CellTypes:
        """Cell types and aspects of the examples."""
        pairs = set(zip(self.term.tolist(), self.aspect.tolist(), strict=True))
        return CellTypes(term_ids=self.term_ids, aspects=self.aspects, pairs=tuple(sorted(pairs)))

    def keep_genes(self, kept: np.ndarray) -> "Corpus":
        """Return the corpus restricted to genes; `kept` is bool, shape (n_genes,)."""
        return Corpus(
            **{
                **vars(self),
                "values": self.values[:, np.flatnonzero(kept)].tocsr(),
                "ensembl_ids": tuple(np.array(self.ensembl_ids, dtype=object)[kept]),
                "measured": self.measured[:, kept],
            }
        )


def read_corpus(
    files: Sequence[SourceFile],
    columns: Columns,
    ontology: Ontology,
    *,
    without: Set[str] = frozenset(),
    on_file: Callable[[SourceFile], None] = lambda file: None,
) -> Corpus:
    """Read the labelled rows of all files into memory.

    Parameters
    ----------
    files
        From `find_sources`.
    without
        Types whose rows are left out.
    on_file
        Called before each file is read.

    Raises
    ------
    ValueError
        If a file is damaged, has values that contradict its declared scale, or no row of any file
        has a usable term.
    """
    genes = token_genes()
    column_of = {ensembl_id: column for column, ensembl_id in enumerate(genes)}
    labelled, blocks, measured, reports = [], [], [], []
    for file in files:
        on_file(file)
        rows = label_rows(file.path, columns, ontology, without=without)
        values, has = _read_values(file, rows.rows, column_of)
        labelled.append(rows)
        blocks.append(values)
        measured.append(has)
        reports.append(_report(file, rows, has))
    if not sum(len(rows.rows) for rows in labelled):
        raise ValueError(
            f"no row of the {len(files)} training files has a term of {ontology.title}"
        )
    _spread_ranked_sources(files, blocks, measured)
    return _assemble(files, labelled, blocks, np.array(measured), tuple(genes), tuple(reports))


def spread_ranks(values: sparse.csr_matrix, reference: np.ndarray) -> sparse.csr_matrix:
    """Replace values of unknown scale by linear values in the same order.

    Dividing by gene medians needs a linear scale. The r-th highest of n values of a row becomes
    the value at quantile r / n of `reference`.

    Parameters
    ----------
    values
        CSR, shape (n_rows, n_genes); only the order within a row matters.
    reference
        Typical linear values of a profile, descending, shape (n,).
    """
    spread = values.copy()
    for start, stop in zip(values.indptr[:-1], values.indptr[1:], strict=True):
        order = np.argsort(-values.data[start:stop], kind="stable")
        quantiles = (np.arange(stop - start) + 0.5) / max(1, stop - start)
        places = np.minimum((quantiles * len(reference)).astype(int), len(reference) - 1)
        spread.data[start + order] = reference[places]
    return spread


def _read_values(
    file: SourceFile, rows: np.ndarray, column_of: dict[str, int]
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return linear values of the given rows of a file, and a mask of its measured genes."""
    with open_counts(file.path, scale=file.scale) as matrix:
        columns = np.array([column_of.get(gene, -1) for gene in matrix.resolution.ensembl_ids])
        known = np.flatnonzero(columns >= 0)
        # Multiplying by this sums columns of the same gene.
        select = sparse.csr_matrix(
            (np.ones(len(known), np.float32), (known, columns[known])),
            shape=(matrix.n_genes, len(column_of)),
        )
        parts = []
        for block in matrix.blocks():
            inside = rows[(rows >= block.start) & (rows < block.start + block.counts.shape[0])]
            parts.append((block.counts[inside - block.start] @ select).astype(np.float32))
    values = sparse.vstack(parts).tocsr()
    values.eliminate_zeros()
    values.sort_indices()
    measured = np.zeros(len(column_of), dtype=bool)
    measured[columns[known]] = True
    return values, measured


def _spread_ranked_sources(
    files: Sequence[SourceFile], blocks: list[sparse.csr_matrix], measured: list[np.ndarray]
) -> None:
    ranked = [i for i, file in enumerate(files) if file.scale == "ranks"]
    linear = [i for i, file in enumerate(files) if file.is_profile and file.scale != "ranks"]
    if ranked:
        reference = _typical_profile([blocks[i] for i in linear or range(len(blocks))])
        for i in ranked:
            blocks[i] = spread_ranks(blocks[i], reference)


def _typical_profile(blocks: Sequence[sparse.csr_matrix], n_points: int = 1000) -> np.ndarray:
    """Return the median over rows of each quantile of the expressed genes, as share of the total."""
    curves = []
    for block in blocks:
        for start, stop in zip(block.indptr[:-1], block.indptr[1:], strict=True):
            row = np.sort(block.data[start:stop])[::-1]
            if len(row) >= 100:  # shorter rows are too few points for the tail
                places = (np.arange(n_points) + 0.5) / n_points * len(row)
                curves.append(row[places.astype(int)] / row.sum(dtype=np.float64))
    if not curves:
        return np.geomspace(1, 1e-4, n_points)
    return np.median(curves, axis=0)


def _assemble(
    files: Sequence[SourceFile],
    labelled: Sequence[LabelledRows],
    blocks: Sequence[sparse.csr_matrix],
    measured: np.ndarray,
    genes: tuple[str, ...],
    reports: tuple[FileReport, ...],
) -> Corpus:
    term_ids, term = np.unique(
        np.concatenate([rows.term_ids for rows in labelled]), return_inverse=True
    )
    studies, study = np.unique(
        np.concatenate([rows.studies for rows in labelled]), return_inverse=True
    )
    all_aspects = [aspects for rows in labelled for aspects in rows.aspects]
    aspects = sorted(set(all_aspects))
    place = {each: number for number, each in enumerate(aspects)}
    return Corpus(
        values=sparse.vstack(blocks).tocsr(),
        ensembl_ids=genes,
        measured=measured,
        sources=tuple(files),
        source=np.repeat(np.arange(len(files)), [len(rows.rows) for rows in labelled]),
        term=term,
        study=study,
        aspect=np.array([place[each] for each in all_aspects]),
        is_integral=np.array([bool((block.data == np.rint(block.data)).all()) for block in blocks]),
        term_ids=tuple(term_ids),
        studies=tuple(studies),
        aspects=tuple(aspects),
        reports=reports,
    )


def _report(file: SourceFile, rows: LabelledRows, measured: np.ndarray) -> FileReport:
    return FileReport(
        name=file.name,
        n_rows=rows.n_rows,
        n_kept=len(rows.rows),
        n_terms=len(set(rows.term_ids)),
        n_genes=int(measured.sum()),
        n_replaced=rows.n_replaced,
        unknown=rows.unknown,
    )
