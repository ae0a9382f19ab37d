"""Slices of packed HDF5 arrays are those that HDF5 itself reads, whatever packed them."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from langcell.counts.chunk_reader import ChunkReader, open_array
from langcell.counts.lzf_kernel import unpack_lzf
from langcell.counts.reader import open_counts
from langcell.genes.gene_table import GeneTable
from langcell.runtime.threads import set_threads, thread_count

N_VALUES, CHUNK = 10_007, 256
PACKED: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "lzf": {"compression": "lzf"},
    "shuffled gzip": {"compression": "gzip", "shuffle": True},
    "shuffled lzf": {"compression": "lzf", "shuffle": True},
}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "x.h5", "w") as opened:
        yield opened


def values_of(kind: str, dtype: str) -> np.ndarray:
    """Values that pack well, badly, and in some chunks not at all."""
    rng = np.random.default_rng(0)
    if kind == "few":
        return rng.poisson(1, N_VALUES).astype(dtype)
    noise = np.frombuffer(rng.bytes(8 * N_VALUES), np.uint8)[: N_VALUES * np.dtype(dtype).itemsize]
    found = noise.copy().view(dtype)
    if kind == "mixed":
        found[: N_VALUES // 2] = 3
    return found


@pytest.mark.parametrize("dtype", ["<f4", "<i4", "<i8", ">i4", "<u2", "u1"])
@pytest.mark.parametrize("kind", ["few", "noise", "mixed"])
@pytest.mark.parametrize("how", PACKED)
def test_slices_are_those_of_hdf5(file: h5py.File, how: str, kind: str, dtype: str) -> None:
    values = values_of(kind, dtype)
    dataset = file.create_dataset("x", data=values, chunks=(CHUNK,), **PACKED[how])
    reader = open_array(dataset)
    assert isinstance(reader, ChunkReader)
    assert (reader.shape, reader.dtype) == ((N_VALUES,), values.dtype)
    for start, stop in (
        (0, N_VALUES),
        (0, 1),
        (255, 257),
        (256, 512),
        (300, 9_000),
        (9_900, 99_999),
    ):
        found = reader[start:stop]
        assert found.dtype == values.dtype
        assert found.tobytes() == values[start:stop].tobytes()
    assert len(reader[7:7]) == len(reader[20_000:20_010]) == 0


@settings(max_examples=50, deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 1100)), max_size=8))
def test_slices_in_any_order_are_the_same(pieces: list[tuple[int, int]]) -> None:
    values = np.random.default_rng(1).poisson(2, 1000).astype(np.float32)
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        reader = open_array(file.create_dataset("x", data=values, chunks=(64,), compression="lzf"))
        for start, stop in pieces:
            assert np.array_equal(reader[start:stop], values[start:stop])


def test_threads_read_the_same(file: h5py.File) -> None:
    values = values_of("few", "<f4")
    many = np.tile(values, 100)
    reader = open_array(file.create_dataset("x", data=many, chunks=(5_000,), compression="gzip"))
    before = thread_count()
    try:
        for n_threads in (1, 4):
            set_threads(n_threads)
            assert np.array_equal(reader[10:], many[10:])
    finally:
        set_threads(before)


def test_other_arrays_are_read_as_they_are(file: h5py.File) -> None:
    values = values_of("few", "<i4")
    unwritten = file.create_dataset("a", (1000,), "i4", chunks=(100,), compression="gzip")
    unwritten[:100] = 5  # the other nine chunks are not in the file
    others = (
        unwritten,
        file.create_dataset("b", data=values),
        file.create_dataset("d", data=values, compression="gzip", fletcher32=True),
        file.create_dataset("e", data=values[:100].reshape(10, 10), compression="gzip"),
    )
    for dataset in others:
        assert open_array(dataset) is dataset
    assert open_array(values) is values


@pytest.mark.parametrize("stored", [8_000_000, 1000])
def test_a_chunk_of_another_size_than_it_must_have_is_named(tmp_path: Path, stored: int) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(5000, dtype="<i4"), chunks=(500,), maxshape=(None,))
    content = path.read_bytes()
    key = struct.pack("<IIQQ", 2000, 0, 3 * 500, 0)  # of the tree of chunks: size, filters, place
    assert content.count(key) == 1
    path.write_bytes(content.replace(key, struct.pack("<I", stored) + key[4:]))
    with h5py.File(path) as file:
        with pytest.raises(OSError, match=f"chunk 3 has {stored} bytes, expected 2000"):
            open_array(file["x"])


def test_odd_numbers_and_words_are_read_by_hdf5(file: h5py.File) -> None:
    odd = h5py.h5t.STD_I16LE.copy()
    odd.set_precision(12)
    odd.set_offset(2)
    space = h5py.h5s.create_simple((100,), (h5py.h5s.UNLIMITED,))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((10,))
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"odd", odd, space, layout))
    dataset[:] = np.arange(100)
    words = file.create_dataset("words", data=["a", "b"] * 50, chunks=(10,))
    for each in (dataset, words):
        assert open_array(each) is each


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_damaged_lzf_is_refused_or_fills_all(packed: bytes, n_bytes: int) -> None:
    around = np.full(n_bytes + 64, 7, np.uint8)
    found = around[32 : 32 + n_bytes]
    try:
        unpack_lzf(np.frombuffer(packed, np.uint8), found)
    except ValueError as error:
        assert str(error) == "LZF data is damaged"
    else:
        assert len(found) == n_bytes == len(plainly_unpacked(packed))
        assert found.tobytes() == plainly_unpacked(packed)
    assert (around[:32] == 7).all() and (around[32 + n_bytes :] == 7).all()


def plainly_unpacked(packed: bytes) -> bytes:
    """Unpack byte by byte."""
    found, at = bytearray(), 0
    while at < len(packed):
        control = packed[at]
        at += 1
        if control < 32:
            found += packed[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[at]
            at += 1
        back = ((control & 31) << 8) + packed[at] + 1
        at += 1
        for _ in range(length + 2):
            found.append(found[-back])
    return bytes(found)


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_a_damaged_chunk_is_named_in_one_line(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "damaged.h5ad"
    table = GeneTable.bundled()
    genes = table.ensembl_ids[table.is_protein_coding][:2000]
    counts = sparse.random(2000, 2000, 0.1, "csr", np.float32, np.random.default_rng(0))
    counts.data = np.ceil(counts.data * 5)
    obs = pd.DataFrame(index=[str(row) for row in range(2000)])
    cells = anndata.AnnData(counts, obs, pd.DataFrame(index=genes))
    cells.write_h5ad(path, compression=compression)
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(file["X/data"].id.get_num_chunks() - 1)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    with (
        pytest.raises(
            ValueError, match=r"damaged\.h5ad.*: damaged or cut short \(chunk \d+ "
        ) as found,
        open_counts(path) as matrix,
    ):
        list(matrix.blocks())
    assert "\n" not in str(found.value)
