"""Read tokenised cells: folders of Hugging Face `datasets`, as Geneformer writes them.

The arrow files are read with pyarrow; the library `datasets` is not needed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pretrain.recipe.obs_columns import Column, first_present

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS = "input_ids"
_STATE, _SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedRows:
    """Consecutive cells of a dataset.

    Attributes
    ----------
    start
        Row of the first cell.
    tokens
        Concatenated tokens of all cells, by the dictionary of the dataset, int64, (n_tokens,).
    offsets
        Start of each cell, int64, shape (n_cells + 1,).
    """

    start: int
    tokens: np.ndarray
    offsets: np.ndarray


def is_dataset(path: Path) -> bool:
    """Tell whether a folder is a dataset, or several splits of one, saved to disk."""
    if not path.is_dir():
        return False
    is_saved = (path / _STATE).is_file() or (path / _SPLITS).is_file()
    return is_saved or any(path.glob("*.arrow"))


def dataset_folders(path: Path) -> list[Path]:
    """Return the folder itself, or the folders of its splits."""
    if not (path / _SPLITS).is_file():
        return [path]
    splits = json.loads((path / _SPLITS).read_text(encoding="utf-8"))["splits"]
    return [path / split for split in splits]


def count_rows(path: Path) -> int:
    """Count the cells of a dataset."""
    return sum(batch.num_rows for batch in _batches(path))


def read_token_columns(
    path: Path, wanted: Mapping[str, tuple[str, ...]], start: int, stop: int
) -> dict[str, Column]:
    """Read other columns than tokens of rows start to stop, as `read_obs_columns` does."""
    schema = next(_batches(path)).schema
    classes = _class_names(schema)
    found = {ours: first_present(names, schema.names) for ours, names in wanted.items()}
    parts: dict[str, list[pa.Array]] = {name: [] for name in found.values() if name}
    for _, batch in _rows(path, start, stop):
        for name, arrays in parts.items():
            # Encoded batch by batch, so that the strings of all cells are never in memory at once.
            arrays.append(batch.column(name).dictionary_encode())
    return {ours: _encoded(parts[name], classes.get(name)) for ours, name in found.items() if name}


def read_tokens(path: Path, start: int, stop: int) -> Iterator[TokenizedRows]:
    """Yield the tokens of rows start to stop.

    Raises
    ------
    ValueError
        If the dataset has no token column, or a cell has no tokens.
    """
    for first, batch in _rows(path, start, stop):
        if TOKENS not in batch.schema.names:
            raise ValueError(
                f"{path} has no column {TOKENS!r}; it has {', '.join(batch.schema.names)}"
            )
        lists = batch.column(TOKENS)
        if lists.null_count:
            raise ValueError(f"{path}: a cell at or after row {first} has no {TOKENS}")
        # `flatten` respects the slice of the batch, the offsets do not.
        offsets = np.asarray(lists.offsets, dtype=np.int64)
        tokens = np.asarray(lists.flatten(), dtype=np.int64)
        yield TokenizedRows(start=first, tokens=tokens, offsets=offsets - offsets[0])


def _rows(path: Path, start: int, stop: int) -> Iterator[tuple[int, "pa.RecordBatch"]]:
    """Yield batches restricted to rows start to stop, with their first row."""
    row = 0
    for batch in _batches(path):
        first, last = max(start, row), min(stop, row + batch.num_rows)
        if first < last:
            yield first, batch.slice(first - row, last - first)
        row += batch.num_rows
        if row >= stop:
            return


def _batches(path: Path) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    for file in _data_files(path):
        try:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file}: damaged or truncated ({error})") from error


def _data_files(path: Path) -> list[Path]:
    if not (path / _STATE).is_file():
        return sorted(path.glob("*.arrow"))
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(
            f"{path} has rows in another order than its arrow files: save it again with"
            " dataset.flatten_indices().save_to_disk(...)"
        )
    return [path / file["filename"] for file in state["_data_files"]]


def _class_names(schema: "pa.Schema") -> dict[str, list[str]]:
    """Return the class names of columns of class labels."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(metadata)["info"]["features"] if metadata else {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _encoded(arrays: list["pa.Array"], names: list[str] | None) -> Column:
    import pyarrow as pa

    encoded = pa.chunked_array(arrays).unify_dictionaries().combine_chunks()
    values = encoded.dictionary.to_pylist()
    if names is not None:
        values = [names[value] if 0 <= value < len(names) else "" for value in values]
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Column.coded(codes, ["" if value is None else value for value in values])
