"""Where calls go: into a copy of the file, into a table, or into an AnnData in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from langcell.counts import CountMatrix
from langcell.h5ad_output import check_h5ad_output, check_in_place, in_place, open_h5ad_output
from langcell.h5ad_writer import H5adWriter
from langcell.output_file import check_output, replaced_file
from zeroshot.annotations import AnnotationBlock, Annotations, Slots

if TYPE_CHECKING:
    from anndata import AnnData

TABLES = (".csv", ".parquet")


class AnnotationWriter(Protocol):
    """Takes blocks in the order of the cells, then the calls of all cells once."""

    def add(self, block: AnnotationBlock) -> None:
        """Take the next cells."""

    def finish(self, annotations: Annotations) -> None:
        """Take the calls of all cells."""


class H5adAnnotations:
    """Writes into an open h5ad file what architecture calls the output contract."""

    def __init__(self, writer: H5adWriter, slots: Slots) -> None:
        self._writer = writer
        self._slots = slots
        writer.remove(slots.paths)

    def add(self, block: AnnotationBlock) -> None:
        """Append features and scores."""
        self._writer.append_rows(f"obsm/{self._slots.features}", block.features)
        self._writer.append_csr(f"obsm/{self._slots.scores}", block.scores.to_csr())

    def finish(self, annotations: Annotations) -> None:
        """Write the columns of obs and the notes in uns."""
        for name, column in annotations.table().items():
            is_label = isinstance(column.dtype, pd.CategoricalDtype)
            self._writer.set_obs(str(name), column.array if is_label else column.to_numpy())
        self._writer.set_uns(self._slots.key, annotations.details)


class TableAnnotations:
    """Writes the columns of obs as CSV or parquet."""

    def __init__(self, temporary: Path, suffix: str) -> None:
        self._temporary = temporary
        self._suffix = suffix

    def add(self, block: AnnotationBlock) -> None:
        """Keep nothing: a table has no features or scores."""

    def finish(self, annotations: Annotations) -> None:
        """Write the table."""
        table = annotations.table()
        if self._suffix == ".csv":
            table.to_csv(self._temporary, lineterminator="\n")
        else:
            table.to_parquet(self._temporary)


class MemoryAnnotations:
    """Collects what goes into an AnnData; `adata=None` drops it all."""

    def __init__(self, adata: "AnnData | None", slots: Slots) -> None:
        self._adata = adata
        self._slots = slots
        self._blocks: list[AnnotationBlock] = []

    def add(self, block: AnnotationBlock) -> None:
        """Keep the block."""
        if self._adata is not None:
            self._blocks.append(block)

    def finish(self, annotations: Annotations) -> None:
        """Write into the AnnData."""
        if self._adata is None:
            return
        table = annotations.table()
        for name in table.columns:
            self._adata.obs[name] = table[name].array
        features = [block.features for block in self._blocks]
        scores = [block.scores.to_csr() for block in self._blocks]
        self._adata.obsm[self._slots.features] = np.concatenate(features)
        self._adata.obsm[self._slots.scores] = sparse.vstack(scores, format="csr")
        self._adata.uns[self._slots.key] = annotations.details


def check_annotation_output(
    source: "AnnData | str | Path",
    target: Path | None,
    slots: Slots,
    *,
    overwrite: bool,
    inplace: bool = False,
) -> None:
    """Refuse, before any work, results that cannot be written.

    Parameters
    ----------
    source: the input, which has been opened already
    target: the file to be written; None for an AnnData that takes the results itself
    slots: names of the results
    overwrite: replace the target and results that are there already
    inplace: add the results to the input file itself

    Raises
    ------
    ValueError, OSError
        As `langcell.h5ad_output.check_h5ad_output`.
    """
    if inplace and isinstance(source, str | Path):
        if target is not None:
            raise ValueError(f"--inplace adds to {source}; leave --out {target} away")
        check_in_place(Path(source), slots.paths, overwrite=overwrite)
    elif target is None:
        if not isinstance(source, str | Path) and not overwrite:
            _check_memory(source, slots)
    elif target.suffix != ".h5ad":
        check_output(target, suffixes=(".h5ad", *TABLES), overwrite=overwrite)
    elif isinstance(source, str | Path):
        check_h5ad_output(Path(source), target, slots.paths, overwrite=overwrite)
    else:
        raise ValueError(
            f"cannot write {target}: leave out= away and the results go into the AnnData, which "
            f"has write_h5ad; out= takes {' or '.join(TABLES)} here"
        )


def _check_memory(adata: "AnnData", slots: Slots) -> None:
    parts = {"obs": adata.obs.columns, "obsm": adata.obsm.keys(), "uns": adata.uns.keys()}
    places = [path.split("/") for path in slots.paths]
    taken = [f"{part}[{name!r}]" for part, name in places if name in parts[part]]
    if taken:
        raise ValueError(
            f"the AnnData already has {', '.join(taken)}; replace them with overwrite=True or "
            "choose other names with key_added"
        )


@contextmanager
def open_writer(
    source: "AnnData | str | Path",
    matrix: CountMatrix,
    target: Path | None,
    slots: Slots,
    *,
    inplace: bool = False,
) -> Iterator[AnnotationWriter]:
    """Hand out the writer for a target; a file appears when the block ends without an error."""
    if inplace and isinstance(source, str | Path):
        with in_place(Path(source), slots.paths) as writer:
            yield H5adAnnotations(writer, slots)
    elif target is None:
        yield MemoryAnnotations(None if isinstance(source, str | Path) else source, slots)
    elif target.suffix in TABLES:
        with replaced_file(target) as temporary:
            yield TableAnnotations(temporary, target.suffix)
    else:
        assert isinstance(source, str | Path)
        with open_h5ad_output(Path(source), matrix, target) as writer:
            yield H5adAnnotations(writer, slots)
