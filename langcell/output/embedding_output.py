"""Write cell embeddings to a copy of the h5ad, a NumPy array or a parquet table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from langcell.counts.reader import CountMatrix, open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.embedder import Embedder, load_embedder
from langcell.output.h5ad_output import check_h5ad_output, open_h5ad_output
from langcell.runtime.output_file import check_output, replaced_file
from langcell.runtime.version import __version__

SUFFIXES = (".h5ad", ".npy", ".parquet")

Append = Callable[[np.ndarray], None]


def embed_file(
    source: Path,
    target: Path,
    *,
    model: str,
    device: str = "auto",
    layer: str | None = None,
    allow_normalized: bool = False,
    batch_size: int | None = None,
    key_added: str = "langcell",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Embed the cells of a file in constant memory and write the embeddings to a file.

    Parameters
    ----------
    source
        .h5ad, .zarr, 10x .h5 or 10x folder.
    target
        .h5ad gets obsm["X_<key_added>"], float32, shape (n_cells, embedding_dim), in a copy of the
        input; .npy only the array; .parquet one row per cell with its name.
    model
        Bundled name, folder or hub id; loaded after input and output have been checked.
    device
        Device of the model.
    progress
        Called after each block with the number of cells done so far and the total number.

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    ValueError, OSError
        If the input or output is unusable; no output file is left.
    """
    slots = [f"obsm/X_{key_added}", f"uns/{key_added}"]
    with open_counts(source, layer=layer, allow_normalized=allow_normalized) as matrix:
        if target.suffix == ".h5ad":
            check_h5ad_output(source, target, slots, overwrite=overwrite)
        else:
            check_output(target, suffixes=SUFFIXES, overwrite=overwrite)
        embedder = load_embedder(model, device=device)
        notes = {
            "version": __version__,
            "model": model,
            "model_sha256": embedder.sha256,
            "counts_source": matrix.source,
            "counts_transform": matrix.transform,
        }
        with _open(source, matrix, target, embedder, slots, notes) as append:
            for block in embed_cells(embedder, matrix, batch_size=batch_size):
                append(block.features)
                if progress is not None:
                    progress(block.start + len(block.features), matrix.n_cells)
        return matrix.n_cells


@contextmanager
def _open(
    source: Path,
    matrix: CountMatrix,
    target: Path,
    model: Embedder,
    slots: list[str],
    notes: dict[str, Any],
) -> Iterator[Append]:
    if target.suffix == ".h5ad":
        with open_h5ad_output(source, matrix, target) as writer:
            writer.remove(slots)
            yield lambda features: writer.append_rows(slots[0], features)
            writer.set_uns(slots[1].removeprefix("uns/"), notes)
        return
    width = model.config.embedding_dim
    with replaced_file(target) as temporary:
        if target.suffix == ".npy":
            with temporary.open("wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (matrix.n_cells, width)}
                np.lib.format.write_array_header_2_0(file, header)
                yield lambda features: _write_floats(file, features)
        else:
            yield from _open_parquet(temporary, matrix.obs_names, width)


def _write_floats(file: Any, features: np.ndarray) -> None:
    file.write(np.ascontiguousarray(features, dtype="<f4").data)


def _open_parquet(temporary: Path, cell_names: np.ndarray, width: int) -> Iterator[Append]:
    """Yield a function that writes each block as a row group."""
    columns = [f"langcell_{column}" for column in range(width)]
    schema = pa.schema([("cell", pa.string()), *((name, pa.float32()) for name in columns)])
    n_done = 0
    with pq.ParquetWriter(temporary, schema) as writer:

        def append(features: np.ndarray) -> None:
            nonlocal n_done
            names = cell_names[n_done : n_done + len(features)].astype(str)
            n_done += len(features)
            arrays = [pa.array(names, pa.string()), *(pa.array(column) for column in features.T)]
            writer.write_table(pa.table(arrays, schema=schema))

        yield append
