"""Embed tokenised cells with a torch model, in padded batches."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from langcell.nn.features import CellFeatures
from langcell.tokens.tokenizer import TokenBlock, collate_tokens

if TYPE_CHECKING:
    from langcell.model.protocol import CellModel

_WIDTH_STEP = 64  # cells are padded to a multiple of this length


def embed_rows(
    model: "CellModel", block: TokenBlock, rows: np.ndarray, batch_size: int, *, with_states: bool
) -> tuple[np.ndarray, CellFeatures | None]:
    """Embed the given rows of a token block.

    Every batch has `batch_size` rows, with empty cells at the end if needed. Cells are batched by
    padded length, which depends only on the cell's own length.

    Returns
    -------
    tuple
        Features, float32, shape (n_rows, embedding_dim); and the `CellFeatures` with the last states
        and mask, or None without `with_states`.
    """
    config, device, genes = model.config, model.device, model.genes
    special = config.cell.special_tokens
    cls_id = None if special == "none" else genes.cls_id
    eos_id = genes.eos_id if special == "cls_eos" else None
    # Number of tokens of each cell; a cell without tokens has one padding token.
    lengths = np.maximum(np.diff(block.offsets)[rows] + config.cell.n_special, 1)
    features = torch.empty(len(rows), config.embedding_dim, device=device)
    pooled = torch.empty(len(rows), config.cell.pooled_size, device=device)
    # The width of the longest of these cells, so that matching reads little padding.
    positions = config.cell.max_positions
    width = min(int(lengths.max(initial=1)), positions) if with_states else 0
    states = torch.zeros(len(rows), width, config.cell.hidden_size, device=device)
    longest = config.max_genes + config.cell.n_special
    for places, batch_width, is_full in _batches(lengths, longest, batch_size):
        lists = [block.cell(rows[place]) for place in places]
        lists += [block.tokens[:0]] * (batch_size - len(places))
        ids, mask = collate_tokens(
            lists, cls_id=cls_id, eos_id=eos_id, pad_id=genes.pad_id, width=batch_width
        )
        # Attention is faster without a mask; the empty cells at the end are dropped anyway.
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
        is_real = torch.from_numpy(np.arange(width) < lengths[:, None]).to(device)
        cells = CellFeatures(
            states=states, attention_mask=is_real, pooled=pooled, features=features
        )
    return features.cpu().numpy(), cells


def _batches(
    lengths: np.ndarray, longest: int, batch_size: int
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Yield the row indices of each batch, its width, and whether every cell has that length."""
    widths = np.minimum(-(-lengths // _WIDTH_STEP) * _WIDTH_STEP, longest)
    is_full = lengths == longest
    for width, full in sorted(set(zip(widths.tolist(), is_full.tolist(), strict=True))):
        places = np.flatnonzero((widths == width) & (is_full == full))
        for first in range(0, len(places), batch_size):
            yield places[first : first + batch_size], width, full
