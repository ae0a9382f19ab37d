"""Cells of a file to features, a stream of blocks in flat memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from langcell.bert import inference
from langcell.features import CellFeatures
from langcell.gene_bag import GeneBag
from langcell.tokenizer import RankTokenizer, TokenBlock, collate_tokens

if TYPE_CHECKING:
    from langcell.counts import CountMatrix
    from langcell.model import LangCell

# Cells that are tokenised together. Batches are cut within such a block, so that what is computed
# with what depends on a cell's place in the file alone; a resumed run starts at a multiple of it.
# Blocks four times as large leave the allocator with 50 MB more of fragments over 100,000 cells.
BLOCK_CELLS = 1024
_WIDTH_STEP = 64  # cells are padded to a multiple of it
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
    """

    start: int
    features: np.ndarray
    cells: CellFeatures | None = None


def default_batch_size(model: "LangCell") -> int:
    """Return how many cells to compute at once; a CPU attends the fastest in small batches."""
    if isinstance(model.cell_encoder, GeneBag):
        return 256
    return 8 if model.device.type == "cpu" else 64


def embed_cells(
    model: "LangCell",
    matrix: "CountMatrix",
    *,
    batch_size: int | None = None,
    states: bool = False,
    check_coverage: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Iterator[CellEmbeddings]:
    """Embed the cells of a count matrix, block by block in their order.

    Every batch has `batch_size` rows, filled up with empty cells at the end, and a width that is a
    function of a cell's own length: neither the other cells of the file nor the block size change
    what a cell gets beyond rounding.

    Parameters
    ----------
    model
        Put into evaluation mode while a block is computed.
    matrix
        Raw counts.
    batch_size
        Cells computed at once; None chooses for the device.
    states
        Keep the last states too, for matching; blocks are smaller then.
    check_coverage
        Judge first how much of the file is known; see `RankTokenizer.coverage`.
    progress
        Called with the number of cells of each block once it is done.
    """
    tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes)
    batch_size = batch_size or default_batch_size(model)
    step = _group_cells(model) if states else BLOCK_CELLS
    for block in tokenizer.tokenize(matrix, rows=BLOCK_CELLS, check_coverage=check_coverage):
        for first in range(0, block.n_cells, step):
            rows = np.arange(first, min(first + step, block.n_cells))
            with inference(model):
                if isinstance(model.cell_encoder, GeneBag) and not states:
                    embedded = _embed_bags(model, model.cell_encoder, block, batch_size)
                else:
                    embedded = _embed_rows(model, block, rows, batch_size, states)
            yield embedded
            if progress is not None:
                progress(len(rows))


def _group_cells(model: "LangCell") -> int:
    """Return how many cells' states fit the memory set aside: a power of two, divides a block."""
    floats = (model.config.max_genes + 1) * model.config.cell.hidden_size
    return min(BLOCK_CELLS, 2 ** max(0, (_STATE_FLOATS // floats).bit_length() - 1))


def _embed_bags(
    model: "LangCell", encoder: GeneBag, block: TokenBlock, batch_size: int
) -> CellEmbeddings:
    """Embed a token block as it stands: bags need neither padding nor cells of one length."""
    features = np.empty((block.n_cells, model.config.embedding_dim), dtype=np.float32)
    for first in range(0, block.n_cells, batch_size):
        offsets = block.offsets[first : first + batch_size + 1]
        n_cells = len(offsets) - 1
        tokens = block.tokens[offsets[0] : offsets[-1]].astype(np.int32)
        # Filled up with empty cells, so that products of matrices have one shape.
        offsets = np.pad(offsets - offsets[0], (0, batch_size - n_cells), mode="edge")
        pooled = encoder.encode_tokens(
            torch.from_numpy(tokens).to(model.device),
            torch.from_numpy(offsets.astype(np.int32)).to(model.device),
        )
        batch = functional.normalize(model.cell_projection(pooled), dim=-1)
        features[first : first + n_cells] = batch[:n_cells].cpu().numpy()
    return CellEmbeddings(start=block.start, features=features)


def _embed_rows(
    model: "LangCell", block: TokenBlock, rows: np.ndarray, batch_size: int, with_states: bool
) -> CellEmbeddings:
    """Embed the given rows of a token block."""
    lengths = np.diff(block.offsets)[rows]  # genes of each cell
    config, device = model.config, model.device
    features = torch.empty(len(rows), config.embedding_dim, device=device)
    pooled = torch.empty(len(rows), config.cell.pooled_size, device=device)
    # As wide as the longest of these cells needs, so that matching reads little padding.
    positions = config.cell.max_positions
    width = min(int(lengths.max(initial=0)) + 1, positions) if with_states else 0
    states = torch.zeros(len(rows), width, config.cell.hidden_size, device=device)
    for places, batch_width, is_full in _batches(lengths, config.max_genes, batch_size):
        lists = [block.cell(rows[place]) for place in places]
        lists += [block.tokens[:0]] * (batch_size - len(places))
        ids, mask = collate_tokens(
            lists, cls_id=model.genes.cls_id, pad_id=model.genes.pad_id, width=batch_width
        )
        # Without a mask attention takes a faster path; the rows that fill up are dropped anyway.
        real = None if is_full else torch.from_numpy(mask).to(device)
        batch = model.encode_cell(torch.from_numpy(ids).to(device), real, cls_only=not with_states)
        where = torch.from_numpy(places).to(device)
        features[where] = batch.features[: len(places)]
        pooled[where] = batch.pooled[: len(places)]
        if with_states:
            used = min(batch_width, width, positions)
            states[where, :used] = batch.states[: len(places), :used]
    cells = None
    if with_states:
        is_real = torch.from_numpy(np.arange(width) <= lengths[:, None]).to(device)
        cells = CellFeatures(
            states=states, attention_mask=is_real, pooled=pooled, features=features
        )
    start = block.start + int(rows[0])
    return CellEmbeddings(start=start, features=features.cpu().numpy(), cells=cells)


def _batches(
    lengths: np.ndarray, max_genes: int, batch_size: int
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Yield places, width (with CLS) and whether every cell fills it, one batch at a time."""
    widths = np.minimum(-(-(lengths + 1) // _WIDTH_STEP) * _WIDTH_STEP, max_genes + 1)
    is_full = lengths == max_genes
    for width, full in sorted(set(zip(widths.tolist(), is_full.tolist(), strict=True))):
        places = np.flatnonzero((widths == width) & (is_full == full))
        for first in range(0, len(places), batch_size):
            yield places[first : first + batch_size], width, full
