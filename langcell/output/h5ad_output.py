"""Open an h5ad output that starts as a copy of the input, for every kind of input."""

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr

from langcell.output.h5ad_writer import H5adWriter, check_slots, extended_copy
from langcell.runtime.output_file import check_output, replaced_file
from langcell.runtime.parameter_names import option

if TYPE_CHECKING:
    from langcell.counts.reader import CountMatrix

_ZARR_MARKS = (".zgroup", ".zattrs", "zarr.json")
_COPY_BYTES = 1 << 24


def check_in_place(source: Path, slots: list[str], *, overwrite: bool) -> None:
    """Raise, before any work, if results cannot be added to an input; raise as `check_slots`."""
    if not _is_h5ad(source):
        raise ValueError(
            f"cannot add to {source}: it is not an h5ad file; write a new file with {option('out')}"
        )
    if not os.access(source, os.W_OK):
        raise PermissionError(f"cannot add to {source}: no permission to write it")
    check_slots(source, slots, overwrite=overwrite)


def check_h5ad_output(source: Path, target: Path, slots: list[str], *, overwrite: bool) -> None:
    """Raise, before any work, if an h5ad output cannot be written.

    Parameters
    ----------
    source: the input, already opened
    target: the file to write
    slots: elements to add, such as "obs/langcell_margin"
    overwrite: replace the target and existing elements

    Raises
    ------
    ValueError, OSError
        As `langcell.runtime.output_file.check_output` and `langcell.output.h5ad_writer.check_slots`,
        and if the target is the source.
    """
    check_output(target, suffixes=(".h5ad",), overwrite=True)
    if target.exists() and target.samefile(source):
        raise ValueError(
            f"{target} is the input itself; choose another name for the output, or pass "
            f"{option('inplace', True)} to add to the input"
        )
    check_output(target, suffixes=(".h5ad",), overwrite=overwrite)
    if _is_h5ad(source):
        check_slots(source, slots, overwrite=overwrite)
    elif _is_zarr(source):
        taken = [slot for slot in slots if (source / slot).exists()]
        if taken and not overwrite:
            raise ValueError(
                f"{source} already has {', '.join(taken)}; pass {option('overwrite', True)} to "
                f"replace them, or choose other names with {option('key_added')}"
            )


def open_h5ad_output(
    source: Path, matrix: "CountMatrix", target: Path
) -> AbstractContextManager[H5adWriter]:
    """Return a context manager with a writer on an h5ad copy of the input.

    An h5ad is copied byte by byte, a zarr store element by element; for 10x files the counts, cell
    names and gene names are written. The target is created if the block ends without an error.

    Parameters
    ----------
    source: the input
    matrix: its opened counts
    target: the h5ad file to write
    """
    if _is_h5ad(source):
        return extended_copy(source, target)
    return _converted_zarr(source, target) if _is_zarr(source) else _new_h5ad(matrix, target)


@contextmanager
def in_place(source: Path, slots: list[str]) -> Iterator[H5adWriter]:
    """Yield a writer on a temporary file next to an h5ad, and copy its contents over at the end.

    The h5ad is opened for writing only then, for a moment in which Ctrl-C and SIGTERM are delayed.
    If the machine crashes in that moment, the h5ad can be damaged, as HDF5 has no journal.

    Parameters
    ----------
    source: the h5ad to add to
    slots: all elements that may be written; existing ones are replaced
    """
    sidecar = source.with_name(f".{source.name}.{secrets.token_hex(4)}.tmp")
    try:
        with h5py.File(sidecar, "w") as file:
            obs = file.create_group("obs")
            obs.attrs["column-order"] = np.array([], dtype=h5py.string_dtype())
            yield H5adWriter(file)
        with _interrupts_held():
            with h5py.File(sidecar, "r") as made, h5py.File(source, "r+") as file:
                H5adWriter(file).take(made, slots)
            sidecar.unlink()  # inside the block: a delayed SIGTERM may end the process after it
    finally:
        sidecar.unlink(missing_ok=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals only in the main thread
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: waiting.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


def _is_h5ad(path: Path) -> bool:
    if path.is_dir() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return "var" in file


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in _ZARR_MARKS)


@contextmanager
def _new_h5ad(matrix: "CountMatrix", target: Path) -> Iterator[H5adWriter]:
    """Write counts, cell names and gene names as a new h5ad file."""
    with replaced_file(target) as temporary:
        frame = anndata.AnnData(
            obs=pd.DataFrame(index=pd.Index(matrix.obs_names.astype(str))),
            var=pd.DataFrame(index=pd.Index(matrix.gene_names.astype(str))),
        )
        frame.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            if "X" in file:  # anndata marks the absence of a matrix with an empty element
                del file["X"]
            writer = H5adWriter(file)
            for block in matrix.blocks():
                writer.append_csr("X", block.counts)
            yield writer


@contextmanager
def _converted_zarr(source: Path, target: Path) -> Iterator[H5adWriter]:
    """Copy a zarr store to a new h5ad file; both formats store AnnData in the same tree."""
    with replaced_file(target) as temporary, h5py.File(temporary, "w") as file:
        store = zarr.open_group(source, mode="r")
        _copy_attributes(store, file)
        _copy_members(store, file)
        yield H5adWriter(file)


def _copy_members(store: Any, group: h5py.Group) -> None:
    for name in sorted(store.keys()):
        member = store[name]
        if hasattr(member, "keys"):
            copied: Any = group.create_group(name)
            _copy_members(member, copied)
        else:
            copied = _copy_array(member, group, name)
        _copy_attributes(member, copied)


def _copy_array(array: Any, group: h5py.Group, name: str) -> h5py.Dataset:
    is_text = array.dtype.kind in "OUT"
    dtype = h5py.string_dtype() if is_text else array.dtype
    if not array.shape:
        value = array[()]
        return group.create_dataset(name, data=str(value) if is_text else value, dtype=dtype)
    copied = group.create_dataset(
        name, shape=array.shape, dtype=dtype, chunks=True if array.size else None
    )
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, _COPY_BYTES // row_bytes)
    for start in range(0, array.shape[0], step):
        rows = array[start : start + step]
        copied[start : start + step] = rows.astype(object) if is_text else rows
    return copied


def _copy_attributes(store: Any, copied: h5py.Group | h5py.Dataset) -> None:
    for name, value in store.attrs.items():
        is_texts = isinstance(value, list) and any(isinstance(each, str) for each in value)
        copied.attrs[name] = np.array(value, dtype=h5py.string_dtype()) if is_texts else value
