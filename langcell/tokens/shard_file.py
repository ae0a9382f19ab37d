"""Read and write one shard of a pre-tokenised corpus: a memory-mapped file of packed cells."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from langcell.runtime.output_file import replaced_file
from langcell.tokens.packed_cells import PackedCells

# Columns of each cell besides its tokens: codes into the manifest's categories (-1 if unknown) and
# the row in the source file.
COLUMNS: Mapping[str, type[np.signedinteger]] = {
    "text": np.int32,  # row of the table of descriptions
    "term": np.int32,
    "study": np.int32,
    "donor": np.int32,
    "tissue": np.int32,
    "assay": np.int32,
    "file": np.int32,
    "row": np.int64,
}
_TYPES = {"U8": np.uint8, "U16": np.uint16, "I32": np.int32, "I64": np.int64, "U64": np.uint64}
_LENGTH_BYTES = 8


def write_shard(path: Path, cells: PackedCells) -> None:
    """Write the cells of a shard; the same cells give the same bytes."""
    write_tensors(path, {"tokens": cells.tokens, "offsets": cells.offsets, **cells.columns})


def open_shard(path: Path) -> PackedCells:
    """Memory-map a shard; data is read when it is accessed.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, cut short or not a shard.
    """
    tensors = map_tensors(path)
    missing = [name for name in ("tokens", "offsets", *COLUMNS) if name not in tensors]
    if missing:
        raise ValueError(f"{path} is not a shard of a corpus: it lacks {', '.join(missing)}")
    tokens, offsets = tensors.pop("tokens"), tensors.pop("offsets")
    return PackedCells(tokens=tokens, offsets=offsets, columns=tensors)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a safetensors file, atomically."""
    with replaced_file(path) as part:
        mode = part.stat().st_mode
        save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, part)
        part.chmod(mode)  # safetensors makes its files private to the user


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Memory-map the arrays of a safetensors file, read-only.

    The reader of safetensors copies arrays; views of a map are read at the speed of the disk.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, cut short or not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if n_bytes < start:
            raise ValueError(f"{path} is cut short or not a safetensors file")
        try:
            entries = json.loads(file.read(length))
            stop = start + max(entry["data_offsets"][1] for entry in entries.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: its header cannot be read") from error
    if n_bytes != stop:
        raise ValueError(f"{path} has {n_bytes:,} bytes, expected {stop:,}: it is cut short")
    # As a plain array, which NumPy handles faster than its memmap class.
    content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    return {
        name: content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view(_TYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in entries.items()
    }
