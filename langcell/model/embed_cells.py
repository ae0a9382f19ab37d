"""Cells of a file to features, a stream of blocks in flat memory."""

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

# Cells that are tokenised together. Batches are cut within such a block, so that what is computed
# with what depends on a cell's place in the file alone; a resumed run starts at a multiple of it.
# Blocks four times as large leave the allocator with 50 MB more of fragments over 100,000 cells.
BLOCK_CELLS = 1024
_STATE_FLOATS = 2**26  # 256 MiB of states in memory at most


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
        The same with last states and mask, as matching reads them; None unless asked for.
    tokens
        Ranked genes of the same cells; None for features that are not read from a file.
    """

    start: int
    features: np.ndarray
    cells: "CellFeatures | None" = None
    tokens: TokenBlock | None = None


def default_batch_size(model: "CellModel") -> int:
    """Return how many cells to compute at once; a CPU attends the fastest in small batches."""
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
    """Embed the cells of a count matrix, block by block in their order.

    Neither the other cells of the file nor the block size change what a cell gets: not at all with
    a bag of genes on a CPU (`FrozenBag`), else not beyond rounding.

    Parameters
    ----------
    model
        A `LangCell` is put into evaluation mode while a block is computed.
    matrix
        Raw counts.
    batch_size
        Cells computed at once; None chooses for the device. A `FrozenBag` has its own.
    states
        Keep the last states too, for matching; blocks are smaller then.
    check_coverage
        Judge first how much of the file is known; see `RankTokenizer.coverage`.
    progress
        Called with the number of cells of each block once it is done.
    start, stop
        Cells to embed, all by default; start is a multiple of `BLOCK_CELLS`, so that batches are
        those of a run over all cells.
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
    """Embed tokenised cells, as `embed_cells` does those of a file; with states part by part."""
    return _block_embedder(model, batch_size, states)(block)


def _block_embedder(
    model: "CellModel | FrozenBag", batch_size: int | None, states: bool
) -> Callable[[TokenBlock], Iterator[CellEmbeddings]]:
    """Choose how the cells of a block are embedded."""
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
    """Embed a block with torch, in groups whose states fit into memory where they are kept."""
    # Torch takes seconds to import, and a bag needs none of it.
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
    """Return how many cells' states fit the memory set aside: a power of two, divides a block."""
    floats = (model.config.max_genes + 1) * model.config.cell.hidden_size
    return min(BLOCK_CELLS, 2 ** max(0, (_STATE_FLOATS // floats).bit_length() - 1))
