"""Write annotations to a copy of the h5ad file, to a table, or to an AnnData in memory.

`zeroshot.results.anndata_writers` is imported only for h5ad and AnnData: anndata and pandas double
the start-up time of a run that writes a table.
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from langcell.counts.reader import CountMatrix
from langcell.runtime.output_file import check_output, replaced_file
from langcell.runtime.parameter_names import option
from zeroshot.results.annotations import AnnotationBlock, Annotations, Slots

if TYPE_CHECKING:
    from anndata import AnnData

TABLES = (".csv", ".parquet")


class AnnotationWriter(Protocol):
    """Protocol: `add` blocks in the order of the cells, then `finish` with the calls of all cells."""

    def add(self, block: AnnotationBlock) -> None:
        """Add the next block of cells."""

    def finish(self, annotations: Annotations) -> None:
        """Write the calls of all cells."""


class TableAnnotationWriter:
    """Writes the obs columns of annotations as CSV or parquet."""

    def __init__(self, temporary: Path, suffix: str) -> None:
        self._temporary = temporary
        self._suffix = suffix

    def add(self, block: AnnotationBlock) -> None:
        """Do nothing: a table has no embeddings or scores."""

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
    """Raise, before any work, if the results cannot be written.

    Parameters
    ----------
    source: the input, which can be opened
    target: file to write; None to write to the AnnData itself
    slots: names of the results
    overwrite: replace an existing target and existing results
    inplace: add the results to the input file

    Raises
    ------
    ValueError, OSError
        As in `langcell.output.h5ad_output.check_h5ad_output`.
    """
    if inplace and isinstance(source, str | Path):
        if target is not None:
            raise ValueError(
                f"{option('inplace', True)} writes to {source}; leave out {option('out')}, got {target}"
            )
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
            f"cannot write {target}: with an AnnData, out must be {' or '.join(TABLES)}; leave out "
            "the parameter to add the results to the AnnData, and save it with write_h5ad"
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
    """Open the writer for a target; a file appears only if the block ends without an error."""
    if target is not None and target.suffix in TABLES:
        with replaced_file(target) as temporary:
            yield TableAnnotationWriter(temporary, target.suffix)
        return
    from langcell.output.h5ad_output import in_place, open_h5ad_output
    from zeroshot.results.anndata_writers import AnnDataAnnotationWriter, H5adAnnotationWriter

    if inplace and isinstance(source, str | Path):
        with in_place(Path(source), slots.paths) as writer:
            yield H5adAnnotationWriter(writer, slots)
    elif target is None:
        yield AnnDataAnnotationWriter(None if isinstance(source, str | Path) else source, slots)
    else:
        assert isinstance(source, str | Path)
        with open_h5ad_output(Path(source), matrix, target) as writer:
            yield H5adAnnotationWriter(writer, slots)
