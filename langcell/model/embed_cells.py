"""Embed the cells of a file block by block, in constant memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from langcell.model.frozen_bag import FrozenBag
from langcell.tokens.tokenizer import RankTokenizer, TokenBlock

if TYPE_CHECKING:
    from langcell.counts.reader import CountMatrix
    from langcell.model.protocol import CellModel
    from langcell.nn.features import CellFeatures

# Cells tokenised together. Batches never cross such a block, so that the batch of a cell depends only
# on its row in the file; a resumed run starts at a multiple of this number. With blocks four times
# as large, memory fragmentation grows by 50 MB over 100,000 cells.
BLOCK_CELLS = 1024
_STATE_FLOATS = 2**26  # limit of states in memory, 256 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class CellEmbeddings:
    """Features of consecutive cells.

    Attributes
    ----------
    start
        Row of the first cell in the source.
    features
        float32, unit norm, shape (n_cells, embedding_dim).
    cells
        The same with the last states and mask, for matching; None unless requested.
    tokens
        Ranked genes of the same cells; None for features that do not come from a file.
    """

    start: int
    features: np.ndarray
    cells: "CellFeatures | None" = None
    tokens: TokenBlock | None = None


def default_batch_size(model: "CellModel") -> int:
    """Return the default batch size; attention on a CPU is fastest with small batches."""
    if model.config.cell.kind == "bag":
        return 256
    return 8 if model.device.type == "cpu" else 64


def embed_cells(
    model: "CellModel | FrozenBag",
    matrix: "CountMatrix",
    *,
    batch_size: int | None = None,
    states: bool = False,
    check_coverage: bool = True,
    progress: Callable[[int], None] | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[CellEmbeddings]:
    """Embed the cells of a count matrix block by block, in order.

    The embedding of a cell does not depend on the other cells or on the block size: exactly so with
    a bag of genes on a CPU (`FrozenBag`), otherwise up to rounding.

    Parameters
    ----------
    model
        A `LangCell` is in evaluation mode while a block is computed.
    matrix
        Raw counts.
    batch_size
        Cells per batch; None chooses by device. A `FrozenBag` ignores it.
    states
        Also return the last states, for matching; blocks are then smaller.
    check_coverage
        First check the gene coverage of the file; see `RankTokenizer.coverage`.
    progress
        Called after each block with its number of cells.
    start, stop
        Cells to embed, by default all; `start` must be a multiple of `BLOCK_CELLS`, so that the
        batches are the same as in a run over all cells.
    """
    embed_block = _block_embedder(model, batch_size, states)
    tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes)
    for block in tokenizer.tokenize(
        matrix, rows=BLOCK_CELLS, check_coverage=check_coverage, start=start, stop=stop
    ):
        for embedded in embed_block(block):
            yield embedded
            if progress is not None:
                progress(len(embedded.features))


def embed_tokens(
    model: "CellModel | FrozenBag",
    block: TokenBlock,
    *,
    batch_size: int | None = None,
    states: bool = False,
) -> Iterator[CellEmbeddings]:
    """Embed tokenised cells, as `embed_cells` does for a file; yields several parts with `states`."""
    return _block_embedder(model, batch_size, states)(block)


def _block_embedder(
    model: "CellModel | FrozenBag", batch_size: int | None, states: bool
) -> Callable[[TokenBlock], Iterator[CellEmbeddings]]:
    """Return the function that embeds a block of cells with this model."""
    if isinstance(model, FrozenBag):
        if states:
            raise ValueError("a FrozenBag has no token states; load the model as a LangCell")
        return partial(_embed_bags, model)
    if model.config.cell.kind == "bag" and model.device.type == "cpu" and not states:
        return partial(_embed_bags, FrozenBag.of(model))
    return partial(_embed_groups, model, batch_size or default_batch_size(model), states)


def _embed_bags(bag: FrozenBag, block: TokenBlock) -> Iterator[CellEmbeddings]:
    features = bag.encode_tokens(block.tokens, block.offsets)
    yield CellEmbeddings(start=block.start, features=features, tokens=block)


def _embed_groups(
    model: "CellModel", batch_size: int, states: bool, block: TokenBlock
) -> Iterator[CellEmbeddings]:
    """Embed a block with torch; with `states`, in groups whose states fit into memory."""
    # Imported here: torch takes seconds to import, and a bag of genes does not need it.
    from langcell.model.embed_batches import embed_rows
    from langcell.nn.bert import inference

    step = _group_cells(model) if states else BLOCK_CELLS
    for first in range(0, block.n_cells, step):
        part = block.part(first, min(first + step, block.n_cells))
        rows = np.arange(first, first + part.n_cells)
        with inference(model):
            features, cells = embed_rows(model, block, rows, batch_size, with_states=states)
        yield CellEmbeddings(start=part.start, features=features, cells=cells, tokens=part)


def _group_cells(model: "CellModel") -> int:
    """Return the number of cells whose states fit `_STATE_FLOATS`, as a power of two."""
    floats = (model.config.max_genes + 1) * model.config.cell.hidden_size
    return min(BLOCK_CELLS, 2 ** max(0, (_STATE_FLOATS // floats).bit_length() - 1))
