"""Find the raw counts of any source, check them, and stream them as blocks of CSR rows."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from langcell.counts.check_kernel import INVALID, OUTSIDE, UNSORTED, check_rows
from langcell.counts.file_formats import open_source
from langcell.counts.matrix_choice import Choice, choose_matrix
from langcell.counts.row_readers import CompressedColumns
from langcell.counts.scale import Scale, Transform, make_linear
from langcell.counts.source import CountSource, GeneColumns
from langcell.genes.vocabulary import GeneResolution, GeneTable
from langcell.runtime.parameter_names import option

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True)
class CountBlock:
    """Counts of consecutive cells.

    Attributes
    ----------
    start : row of the first cell in the source.
    counts : linear values, float32 or float64, shape (n_rows, n_genes).
    totals : float64, shape (n_rows,); sum over all columns of the source matrix, including those
        that are not genes.
    """

    start: int
    counts: sparse.csr_matrix
    totals: np.ndarray


class CountMatrix:
    """The counts of a source, read on demand; open it with `open_counts`.

    Attributes
    ----------
    label : name of the source in messages.
    n_cells, n_genes : shape of the matrix.
    gene_names : names as in the source; object array, shape (n_genes,).
    gene_names_key : their place in var: 'index' or a column.
    resolution : Ensembl ids of the names; columns that are not genes (antibodies) have no id.
        Several columns of one gene are kept separate here; the tokenizer sums them.
    source : 'raw.X', 'X' or 'layers/<name>'.
    transform : transform that makes the values linear: 'none', 'expm1' or 'exp2m1'.
    is_normalized : True if the values are not raw counts.
    is_by_gene : True if the matrix is stored as CSC; the first read then makes a CSR copy.
    """

    def __init__(self, source: CountSource, choice: Choice, genes: GeneColumns) -> None:
        self.label = source.label
        self.source = choice.name
        self.transform: Transform = choice.transform
        self.is_normalized = choice.is_normalized
        self.is_by_gene = isinstance(choice.rows, CompressedColumns)
        self.n_cells, self.n_genes = choice.rows.shape
        self._rows = choice.rows
        self._must_be_integer = choice.must_be_integer
        self._read_obs_names = source.read_obs_names
        self.gene_names_key, self.resolution = _best_names(source.label, genes)
        self.gene_names = genes.names[self.gene_names_key]
        if len(self.gene_names) != self.n_genes:
            raise ValueError(
                f"{self.label}: {self.source} has {self.n_genes} columns, but var has"
                f" {len(self.gene_names)} rows"
            )

    @property
    def obs_names(self) -> np.ndarray:
        """Read the cell names; object array, shape (n_cells,)."""
        return self._read_obs_names()

    def blocks(
        self, rows: int = 1024, *, start: int = 0, stop: int | None = None
    ) -> Iterator[CountBlock]:
        """Yield blocks of `rows` cells from start to stop in order; by default of all cells.

        Raises
        ------
        ValueError
            At the first cell with a negative, missing or (for raw counts) non-integer value.
        """
        stop = self.n_cells if stop is None else stop
        for first in range(start, stop, rows):
            yield self.read(first, min(first + rows, stop))

    def read(self, start: int, stop: int) -> CountBlock:
        """Read cells start to stop; raise as `blocks`."""
        what = f"{self.label} ({self.source}, cells {start} to {stop - 1})"
        with _damage_reported(what, ValueError):
            counts = self._rows.read(start, stop)
            totals, faults = self._check_rows(counts)
            if faults & OUTSIDE:
                counts.check_format(full_check=True)  # raises with the reason in most cases
                raise ValueError("indptr must be a non-decreasing sequence")
        if faults & UNSORTED:
            counts.sum_duplicates()
            totals, faults = self._check_rows(counts)
        if faults & INVALID:
            self._refuse_values(counts, start)
        if self.transform != "none":
            counts.data = make_linear(counts.data, self.transform)
            totals, _ = self._check_rows(counts)
        return CountBlock(start=start, counts=counts, totals=totals)

    def _check_rows(self, counts: sparse.csr_matrix) -> tuple[np.ndarray, int]:
        """Return the total of each cell and the fault flags of `check_rows`."""
        totals = np.empty(counts.shape[0], dtype=np.float64)
        arrays = (counts.indptr, counts.indices, counts.data)
        return totals, check_rows(*arrays, counts.shape[1], self._must_be_integer, totals)

    def _refuse_values(self, counts: sparse.csr_matrix, start: int) -> None:
        values = counts.data
        wrong = ~(values >= 0) | ~np.isfinite(values)
        what = "a negative or missing value"
        if not wrong.any() and self._must_be_integer:
            wrong = values != np.rint(values)
            what = "a non-integer value"
        position = int(np.argmax(wrong))
        cell = start + int(np.searchsorted(counts.indptr, position, side="right")) - 1
        remedy = f"; pass {option('allow_normalized', True)} to rank normalised values"
        raise ValueError(
            f"{self.label}: {self.source} holds {what} ({values[position]:g}) in cell {cell}"
            f" ({self.obs_names[cell]!r}); expected raw counts"
            + (remedy if "non-integer" in what else "")
        )


def _best_names(label: str, genes: GeneColumns) -> tuple[str, GeneResolution]:
    """Choose the var column whose names resolve to the most protein-coding genes."""
    best: tuple[int, str, GeneResolution] | None = None
    refusal: ValueError | None = None
    for key, names in genes.names.items():
        try:
            resolution = _resolve(tuple(names[genes.is_gene].tolist()))
        except ValueError as error:
            refusal = refusal or error
            continue
        n_coding = len(set(resolution.ensembl_ids[resolution.is_protein_coding]))
        if best is None or n_coding > best[0]:
            best = (n_coding, key, resolution)
    if best is None:
        raise ValueError(f"{label}: {refusal}") from refusal
    return best[1], _of_all_columns(best[2], genes.is_gene)


def _refuse_other_species(source: CountSource) -> None:
    for slot in source.slots.values():
        _best_names(source.label, slot.read_genes())


@lru_cache(maxsize=8)
def _resolve(names: tuple[str, ...]) -> GeneResolution:
    """Resolve names; cached for a file that is opened again and for files with the same genes."""
    return GeneTable.bundled().resolve(names)


def _of_all_columns(resolution: GeneResolution, is_gene: np.ndarray) -> GeneResolution:
    """Extend a resolution to all columns; those that are not genes get no id."""
    ensembl_ids = np.full(len(is_gene), "", dtype=object)
    ensembl_ids[is_gene] = resolution.ensembl_ids
    coding = np.zeros(len(is_gene), dtype=bool)
    coding[is_gene] = resolution.is_protein_coding
    return replace(resolution, ensembl_ids=ensembl_ids, is_protein_coding=coding)


@contextmanager
def _damage_reported(what: str, *also: type[Exception]) -> Iterator[None]:
    """Turn errors of HDF5, zarr and `also` about a broken file into a ValueError that names it."""
    kinds: tuple[type[Exception], ...] = (OSError, KeyError, RuntimeError, *also)
    try:
        yield
    except kinds as error:
        # OS errors (no space, no permission) have an errno, HDF5's have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{what}: damaged or cut short ({error})") from error


@contextmanager
def open_counts(
    source: "AnnData | str | os.PathLike[str]",
    *,
    layer: str | None = None,
    allow_normalized: bool = False,
    scale: Scale | None = None,
) -> Iterator[CountMatrix]:
    """Open the counts of a source; use it as a context manager.

    Parameters
    ----------
    source : AnnData, or the path of an h5ad, an AnnData zarr, a 10x h5 or a folder with a 10x
        matrix.mtx.
    layer : read this layer ('X' and 'raw.X' are accepted too). By default the first of raw.X, X
        and layers["counts"] that holds integers is read.
    allow_normalized : accept normalised values; values that look like log1p are made linear.
    scale : scale of the values, if known; X is then read and nothing is guessed.

    Raises
    ------
    FileNotFoundError, ValueError
        If the source does not exist, is damaged, has no cells, has genes of another species, or has
        no matrix with suitable values. Each message names a remedy.
    """
    with ExitStack() as stack:
        opened = open_source(source, stack)
        with _damage_reported(opened.label):
            try:
                choice = choose_matrix(
                    opened, layer=layer, allow_normalized=allow_normalized, scale=scale
                )
            except ValueError:
                _refuse_other_species(opened)  # the more useful message of the two
                raise
            genes = opened.slots[choice.name].read_genes()
        yield CountMatrix(opened, choice, genes)
