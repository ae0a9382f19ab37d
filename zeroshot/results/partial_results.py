"""Annotated cells of an unfinished run: in memory, or in a folder from which a run resumes."""

import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout

from langcell.model.embed_cells import BLOCK_CELLS
from zeroshot.results.annotations import AnnotationBlock
from zeroshot.results.records import RecordLayout

_JOB, _LOCK = "job.json", "lock"
_CHECK_BYTES = 4  # CRC-32 after each block

Append = Callable[[AnnotationBlock], None]


class PartialResults(Protocol):
    """Protocol: stores annotated cells in any order, and yields them in order once complete.

    Attributes
    ----------
    n_cells: number of cells of the whole run
    """

    n_cells: int

    def pending(self) -> list[range]:
        """Return the ranges of cells that are not annotated yet, ascending."""

    def appending(self, start: int) -> AbstractContextManager[Append]:
        """Open a function that appends consecutive blocks, starting at a pending cell."""

    def blocks(self) -> Iterator[AnnotationBlock]:
        """Yield all cells in order."""


class MemoryResults:
    """Stores records in memory; an interrupted run cannot resume."""

    def __init__(self, layout: RecordLayout, n_cells: int) -> None:
        self.n_cells = n_cells
        self._layout = layout
        self._records: list[np.ndarray] = []

    def pending(self) -> list[range]:
        """Return the range of all cells."""
        return [range(self.n_cells)]

    @contextmanager
    def appending(self, start: int) -> Iterator[Append]:
        """Open a function that appends consecutive blocks."""
        yield lambda block: self._records.append(self._layout.pack(block))

    def blocks(self) -> Iterator[AnnotationBlock]:
        """Yield all cells in order."""
        start = 0
        for records in self._records:
            yield self._layout.unpack(start, records)
            start += len(records)


class FolderResults:
    """Stores records in a folder; see `open_results`.

    A file holds consecutive cells, starting at the row in its name, in blocks of `BLOCK_CELLS`. Each
    block is followed by a checksum, so a block cut short by a killed process or a full disk is
    ignored. Several processes can write at once, each to its own files.

    Parameters
    ----------
    folder: an existing folder
    layout: layout of the records
    n_cells: number of cells of the whole run
    """

    def __init__(self, folder: Path, layout: RecordLayout, n_cells: int) -> None:
        self.folder = folder
        self.n_cells = n_cells
        self._layout = layout

    @property
    def n_stored(self) -> int:
        """Approximate number of stored cells, by the sizes of the files."""
        return sum(file.stat().st_size for file in self._files()) // self._layout.dtype.itemsize

    def pending(self) -> list[range]:
        """Return the ranges of cells that are not annotated yet, ascending."""
        stored = [range(start, start + len(each)) for start, each in self._records()]
        starts = [0, *(rows.stop for rows in stored)]
        stops = [*(rows.start for rows in stored), self.n_cells]
        return [range(a, b) for a, b in zip(starts, stops, strict=True) if a < b]

    @contextmanager
    def appending(self, start: int) -> Iterator[Append]:
        """Open a function that appends consecutive blocks, starting at a pending cell.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        path = self.folder / f"cells-{start:012}.bin"
        waiting: list[np.ndarray] = []  # blocks are smaller than BLOCK_CELLS if memory is short

        def append(block: AnnotationBlock) -> None:
            waiting.append(self._layout.pack(block))
            if sum(map(len, waiting)) >= BLOCK_CELLS:
                write()

        def write() -> None:
            raw = np.concatenate(waiting).tobytes()
            waiting.clear()
            file.write(raw + zlib.crc32(raw).to_bytes(_CHECK_BYTES, "little"))
            file.flush()

        try:
            with path.open("wb") as file:
                yield append
                if waiting:
                    write()
        except OSError as error:
            if error.errno is None:
                raise  # an HDF5 error of the input
            raise type(error)(f"cannot write {path}: {error.strerror}") from error

    def blocks(self) -> Iterator[AnnotationBlock]:
        """Yield all cells in order.

        Raises
        ------
        ValueError
            If cells are missing.
        """
        if missing := self.pending():
            raise ValueError(
                f"{self.folder} is incomplete: cells from {missing[0].start} on are missing"
            )
        for start, records in self._records():
            yield self._layout.unpack(start, records)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("cells-*.bin"))

    def _records(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first cell, records) of each complete block, ascending."""
        dtype = self._layout.dtype
        for path in self._files():
            start = int(path.stem.partition("-")[2])
            with path.open("rb") as file:
                while n_rows := min(BLOCK_CELLS, self.n_cells - start):
                    raw, check = file.read(n_rows * dtype.itemsize), file.read(_CHECK_BYTES)
                    if zlib.crc32(raw).to_bytes(_CHECK_BYTES, "little") != check:
                        break
                    yield start, np.frombuffer(raw, dtype)
                    start += n_rows


def partial_folder(output: Path) -> Path:
    """Return the folder for the results of an unfinished run.

    >>> partial_folder(Path("results/named.h5ad")).name
    '.named.h5ad.partial'
    """
    return output.with_name(f".{output.name}.partial")


@contextmanager
def open_results(
    output: Path, job: Mapping[str, Any], layout: RecordLayout, n_cells: int
) -> Iterator[FolderResults]:
    """Open the folder of a run, next to its output; remove it when the block ends.

    If the block is interrupted, the folder stays, and the same job resumes from it. Results of
    another job and temporary files of killed runs are deleted.

    Parameters
    ----------
    output: output file of the run
    job: everything that the results depend on, as JSON values
    layout: layout of the records
    n_cells: number of cells of the whole run

    Raises
    ------
    BlockingIOError
        If another process is writing the same output.
    """
    folder = partial_folder(output)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write in {output.parent}: {error.strerror}") from error
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"another process is writing {output} (it holds {lock.lock_file}); wait for it, or choose "
            "another output"
        ) from error
    results = FolderResults(folder, layout, n_cells)
    try:
        _prepare(folder, output, json.dumps(job, sort_keys=True))
        yield results
    except BaseException as error:
        n_done = n_cells - sum(map(len, results.pending()))
        kept = (
            f"{n_done:,} of {n_cells:,} cells are kept in {folder}; the same command resumes there"
        )
        # A ValueError is about the input or the parameters: running again would not help.
        if isinstance(error, ValueError) or not n_done:
            shutil.rmtree(folder, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped by the user; {kept}") from error
        else:
            warnings.warn(kept, UserWarning, stacklevel=3)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def _prepare(folder: Path, output: Path, job: str) -> None:
    """Empty the folder unless it belongs to the same job."""
    for stale in output.parent.glob(f".{output.name}.*.tmp"):
        stale.unlink()
    path = folder / _JOB
    if path.is_file() and path.read_text(encoding="utf-8") == job:
        return
    for file in folder.glob("cells-*.bin"):
        file.unlink()
    temporary = folder / f"{_JOB}.tmp"
    temporary.write_text(job, encoding="utf-8")
    os.replace(temporary, path)
