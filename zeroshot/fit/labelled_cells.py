"""Sample labelled cells from a file and embed them."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.reader import open_counts
from langcell.model.embed_cells import CellEmbeddings, embed_cells
from langcell.model.embedder import Embedder
from langcell.tokens.tokenizer import TokenBlock
from zeroshot.annotation.cell_scorer import Progress
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.fit.options import FewShotOptions

if TYPE_CHECKING:
    from anndata import AnnData


def sample_labelled(
    codes: np.ndarray, keys: Sequence[str], shots: int | None, *, seed: int
) -> np.ndarray:
    """Sample cells of each label.

    Parameters
    ----------
    codes: index in `keys` of each cell's label, -1 for none, shape (n_cells,)
    keys: label keys
    shots: maximum number of cells per label; None for all
    seed: seed of the sample; the sample of a label does not depend on the other labels

    Returns
    -------
    Rows of the sampled cells, ascending
    """
    sampled = []
    for code in np.unique(codes[codes >= 0]):
        members = np.flatnonzero(codes == code)
        if shots is not None and len(members) > shots:
            rng = np.random.default_rng([seed, zlib.crc32(keys[code].encode())])
            members = rng.permutation(members)[:shots]
        sampled.append(members)
    return np.sort(np.concatenate(sampled))


def read_blocks(
    source: "AnnData | str | Path",
    rows: np.ndarray,
    model: Embedder,
    options: FewShotOptions | AnnotateOptions,
    progress: Progress | None,
) -> Iterator[CellEmbeddings]:
    """Embed some cells of a source in blocks; `start` of a block is a position in `rows` (ascending)."""
    with open_counts(
        source, layer=options.layer, allow_normalized=options.allow_normalized
    ) as matrix:
        for block in embed_cells(model, matrix, batch_size=options.batch_size):
            assert block.tokens is not None, "cells of a file have tokens"
            stop = block.start + len(block.features)
            first, last = np.searchsorted(rows, [block.start, stop])
            inside = rows[first:last] - block.start
            if len(inside):
                yield CellEmbeddings(
                    start=int(first),
                    features=block.features[inside],
                    tokens=TokenBlock.of([block.tokens.cell(row) for row in inside]),
                )
            if progress is not None:
                progress(stop, matrix.n_cells)


def read_cells(
    source: "AnnData | str | Path",
    rows: np.ndarray,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> CellEmbeddings:
    """Embed some cells of a source into memory; parameters as in `read_blocks`."""
    features, cells = [], []
    for block in read_blocks(source, rows, model, options, progress):
        assert block.tokens is not None, "cells of a file have tokens"
        features.append(block.features)
        cells += [block.tokens.cell(row) for row in range(block.tokens.n_cells)]
    return CellEmbeddings(start=0, features=np.concatenate(features), tokens=TokenBlock.of(cells))
