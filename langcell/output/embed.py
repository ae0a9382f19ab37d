"""The public function that embeds cells."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.keywords import public
from langcell.runtime.parameter_names import option

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@public
def embed(
    adata: "AnnData | MuData | str | Path",
    *,
    model: "Embedder | str | Path" = "mini-fast",
    key_added: str = "langcell",
    overwrite: bool = False,
    layer: str | None = None,
    allow_normalized: bool = False,
    modality: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embed cells as unit vectors, comparable with each other and with embedded texts.

    For files that do not fit in memory see `langcell embed`, which writes block by block.

    Parameters
    ----------
    adata
        AnnData or MuData with raw counts, which gets obsm["X_<key_added>"]; or path of an .h5ad,
        .zarr, 10x .h5 or 10x folder.
    model
        A model, or the name, folder or hub id of one: "mini-fast" or "mini" are bundled.
    key_added
        Name of the result in obsm, after "X_".
    overwrite
        Replace a result that exists already.
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    modality
        Modality of a MuData with the counts of RNA.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    batch_size
        Cells encoded at once; chosen for the device by default.
    progress
        Called after each block with the number of cells done and of all cells.

    Returns
    -------
    numpy.ndarray
        float32, unit norm, shape (n_cells, embedding_dim), 256 by default.

    Raises
    ------
    ValueError, OSError
        If there are no usable counts, too few genes are known, or the model is not found.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.embed(adata).shape  # doctest: +SKIP
    (700, 256)
    """
    source, slot = modality_of(adata, modality), f"X_{key_added}"
    in_memory = not isinstance(source, str | Path)
    if in_memory and slot in source.obsm and not overwrite:
        raise ValueError(
            f"obsm[{slot!r}] exists already; replace it with {option('overwrite', True)} or choose "
            f"another {option('key_added')}"
        )
    with open_counts(source, layer=layer, allow_normalized=allow_normalized) as matrix:
        embedder = load_embedder(model, device=device) if isinstance(model, str | Path) else model
        features = np.empty((matrix.n_cells, embedder.config.embedding_dim), dtype=np.float32)
        for block in embed_cells(embedder, matrix, batch_size=batch_size):
            done = block.start + len(block.features)
            features[block.start : done] = block.features
            if progress is not None:
                progress(done, matrix.n_cells)
    if in_memory:
        source.obsm[slot] = features
    return features
