"""Where calls go: into a copy of the file, into a table, or into an AnnData in memory.

A table starts in half the time without anndata and pandas: `zeroshot.results.anndata_writers` is imported
where the other two are wanted.
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from langcell.counts.reader import CountMatrix
from langcell.runtime.output_file import check_output, replaced_file
from zeroshot.results.annotations import AnnotationBlock, Annotations, Slots

if TYPE_CHECKING:
    from anndata import AnnData

TABLES = (".csv", ".parquet")


class AnnotationWriter(Protocol):
    """Takes blocks in the order of the cells, then the calls of all cells once."""

    def add(self, block: AnnotationBlock) -> None:
        """Take the next cells."""

    def finish(self, annotations: Annotations) -> None:
        """Take the calls of all cells."""


class TableAnnotations:
    """Writes the columns of obs as CSV or parquet."""

    def __init__(self, temporary: Path, suffix: str) -> None:
        self._temporary = temporary
        self._suffix = suffix

    def add(self, block: AnnotationBlock) -> None:
        """Keep nothing: a table has no features or scores."""

    def finish(self, annotations: Annotations) -> None:
        """Write the table."""
        if self._suffix == ".parquet":
            annotations.table().to_parquet(self._temporary)
            return
        columns = annotations.columns()
        with self._temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["cell", *columns])
            writer.writerows(zip(annotations.cell_names, *columns.values(), strict=True))


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
        As `langcell.output.h5ad_output.check_h5ad_output`.
    """
    if inplace and isinstance(source, str | Path):
        if target is not None:
            raise ValueError(f"--inplace adds to {source}; leave --out {target} away")
        from langcell.output.h5ad_output import check_in_place

        check_in_place(Path(source), slots.paths, overwrite=overwrite)
    elif target is None:
        if not isinstance(source, str | Path) and not overwrite:
            from zeroshot.results.anndata_writers import check_memory

            check_memory(source, slots)
    elif target.suffix != ".h5ad":
        check_output(target, suffixes=(".h5ad", *TABLES), overwrite=overwrite)
    elif isinstance(source, str | Path):
        from langcell.output.h5ad_output import check_h5ad_output

        check_h5ad_output(Path(source), target, slots.paths, overwrite=overwrite)
    else:
        raise ValueError(
            f"cannot write {target}: leave out= away and the results go into the AnnData, which "
            f"has write_h5ad; out= takes {' or '.join(TABLES)} here"
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
    if target is not None and target.suffix in TABLES:
        with replaced_file(target) as temporary:
            yield TableAnnotations(temporary, target.suffix)
        return
    from langcell.output.h5ad_output import in_place, open_h5ad_output
    from zeroshot.results.anndata_writers import H5adAnnotations, MemoryAnnotations

    if inplace and isinstance(source, str | Path):
        with in_place(Path(source), slots.paths) as writer:
            yield H5adAnnotations(writer, slots)
    elif target is None:
        yield MemoryAnnotations(None if isinstance(source, str | Path) else source, slots)
    else:
        assert isinstance(source, str | Path)
        with open_h5ad_output(Path(source), matrix, target) as writer:
            yield H5adAnnotations(writer, slots)
