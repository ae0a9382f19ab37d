"""Open 10x Genomics output: an HDF5 file, or a folder with matrix.mtx."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TextIO

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from langcell.counts.csr_store import CsrStore, Triples
from langcell.counts.row_readers import CompressedRows
from langcell.counts.source import KINDS, CountSource, GeneColumns, MatrixSlot, gene_columns

_LINES = 1 << 20  # lines of matrix.mtx parsed at once
_SAMPLE_ROWS = 100


def open_tenx_h5(file: h5py.File, path: Path) -> CountSource:
    """Open an h5 file of Cell Ranger 2 (one group per genome) or later (`matrix/features`)."""
    groups = [
        member
        for member in file.values()
        if isinstance(member, h5py.Group) and "barcodes" in member and "indptr" in member
    ]
    if len(groups) != 1:
        raise ValueError(
            f"{path}: an HDF5 file, but neither AnnData (no 'var') nor a single 10x matrix; counts"
            f" are read from {KINDS}"
        )
    group = groups[0]
    n_genes, n_cells = (int(size) for size in group["shape"][:])
    slot = MatrixSlot(
        open_rows=lambda: CompressedRows(group, (n_cells, n_genes)),
        read_genes=partial(_tenx_genes, group),
    )
    return CountSource(
        label=str(path),
        slots={"X": slot},
        read_obs_names=lambda: group["barcodes"].asstr()[:].astype(object),
    )


def _tenx_genes(group: h5py.Group) -> GeneColumns:
    def read(name: str) -> np.ndarray:
        return group[name].asstr()[:].astype(object)

    if "features" not in group:
        return gene_columns({"gene_ids": read("genes"), "gene_symbols": read("gene_names")}, None)
    names = {"gene_ids": read("features/id"), "gene_symbols": read("features/name")}
    return gene_columns(names, read("features/feature_type"))


class MtxRows:
    """A matrix.mtx, copied to a temporary CSR matrix when it is opened.

    Raises
    ------
    ValueError
        If the file is not a complete Matrix Market coordinate file of n_genes x n_cells.
    """

    def __init__(self, path: Path, n_cells: int, n_genes: int, stack: ExitStack) -> None:
        self.shape = (n_cells, n_genes)
        try:
            with _open_text(path) as text:
                size = _read_header(text, path)
                if size[:2] != (n_genes, n_cells):
                    raise ValueError(
                        f"{path}: {size[0]} x {size[1]}, but the folder lists {n_genes} genes and"
                        f" {n_cells} cells"
                    )
                self._store = stack.enter_context(CsrStore(self.shape, size[2], f"{path} is text"))
                n_read = self._store.fill(_triples(text))
        except (EOFError, OSError, zlib.error, pd.errors.ParserError) as error:
            # OS errors (no space) have an errno, those of gzip have none.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{path}: damaged or cut short ({error})") from error
        if n_read != size[2]:
            raise ValueError(f"{path}: cut short; expected {size[2]:,} entries, found {n_read:,}")

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop."""
        return self._store.read(start, stop)

    def sample_values(self) -> np.ndarray:
        """Return the values of the first rows."""
        return self.read(0, min(_SAMPLE_ROWS, self.shape[0])).data


def _triples(text: TextIO) -> Iterator[Triples]:
    columns = {0: np.int32, 1: np.int32, 2: np.float64}
    chunks = pd.read_csv(text, sep=r"\s+", header=None, dtype=columns, chunksize=_LINES)
    for chunk in chunks:
        # Matrix Market indices start at one, and 10x writes genes as rows.
        yield Triples(
            rows=chunk[1].to_numpy() - 1,
            columns=chunk[0].to_numpy() - 1,
            values=chunk[2].to_numpy(),
        )


def _read_header(text: TextIO, path: Path) -> tuple[int, int, int]:
    first = text.readline().lower().split()
    if first[:3] != ["%%matrixmarket", "matrix", "coordinate"] or first[3:] not in (
        ["integer", "general"],
        ["real", "general"],
    ):
        raise ValueError(f"{path}: not a Matrix Market coordinate file of integers or reals")
    line = text.readline()
    while line.startswith("%"):
        line = text.readline()
    n_rows, n_columns, n_values = (int(number) for number in line.split())
    return n_rows, n_columns, n_values


def _open_text(path: Path) -> TextIO:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _read_table(matrix: Path, stems: tuple[str, ...]) -> pd.DataFrame:
    prefix = matrix.name[: matrix.name.index("matrix.mtx")]
    candidates = [
        matrix.with_name(f"{prefix}{stem}.tsv{end}") for stem in stems for end in ("", ".gz")
    ]
    for path in candidates:
        if path.exists():
            return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    raise FileNotFoundError(f"{candidates[0]}[.gz]: no such file next to {matrix.name}")


def open_mtx(matrix: Path, stack: ExitStack) -> CountSource:
    """Open matrix.mtx[.gz] with the features (or genes) and barcodes files next to it."""
    features = _read_table(matrix, ("features", "genes"))
    barcodes = _read_table(matrix, ("barcodes",))[0].to_numpy(dtype=object)
    names = {"gene_ids": features[0].to_numpy(dtype=object)}
    if features.shape[1] > 1:
        names["gene_symbols"] = features[1].to_numpy(dtype=object)
    types = features[2].to_numpy(dtype=object) if features.shape[1] > 2 else None
    slot = MatrixSlot(
        open_rows=lambda: MtxRows(matrix, len(barcodes), len(features), stack),
        read_genes=lambda: gene_columns(names, types),
    )
    return CountSource(label=str(matrix), slots={"X": slot}, read_obs_names=lambda: barcodes)
