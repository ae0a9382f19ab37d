"""Batches of labelled cells, drawn so that a seed tells which."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langcell.tokens.tokenizer import collate_tokens
from zeroshot.fit.fit_head import LabelledCells

if TYPE_CHECKING:
    from torch import Tensor

    from langcell.model.langcell import LangCell


@dataclass(frozen=True, kw_only=True, eq=False)
class CellBatch:
    """Cells as a cell encoder reads them.

    Attributes
    ----------
    input_ids: shape (n_cells, t)
    attention_mask: bool, shape (n_cells, t)
    labels: row of the label of each cell, int64, shape (n_cells,)
    """

    input_ids: "Tensor"
    attention_mask: "Tensor"
    labels: "Tensor"


def draw_epoch(
    labels: np.ndarray, *, batch_size: int, is_balanced: bool, seed: int, epoch: int
) -> list[np.ndarray]:
    """Draw the rows of each batch of an epoch: as many cells as there are, a full batch at least.

    Parameters
    ----------
    labels: of the cells, int, shape (n_cells,)
    batch_size: cells in a batch; the last one may have fewer
    is_balanced: draw labels evenly, and the cells of a label in turns; else cells in turns
    seed, epoch: what the draw depends on

    Examples
    --------
    >>> draws = draw_epoch(np.array([0] * 90 + [1] * 6), batch_size=32, is_balanced=True, seed=0, epoch=0)
    >>> len(draws), np.bincount(np.array([0] * 90 + [1] * 6)[draws[0]]).tolist()
    (3, [16, 16])
    """
    rng = np.random.default_rng([seed, epoch])
    n_cells = len(labels)
    if is_balanced:
        n_drawn = max(n_cells, batch_size)
        members = [np.flatnonzero(labels == each) for each in np.unique(labels)]
        turns = [_in_turns(each, -(-n_drawn // len(members)), rng) for each in members]
        order = np.concatenate(
            [rng.permutation(round_of_all) for round_of_all in zip(*turns, strict=True)]
        )[:n_drawn]
    else:
        order = rng.permutation(n_cells)
    starts = range(0, len(order), batch_size)
    return [order[start : start + batch_size] for start in starts]


def _in_turns(members: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    rounds = [rng.permutation(members) for _ in range(-(-n // len(members)))]
    return np.concatenate(rounds)[:n]


def collate_rows(shots: LabelledCells, rows: np.ndarray, model: "LangCell") -> CellBatch:
    """Return cells padded to the longest of them, on the device of the model."""
    import torch

    genes, special = model.genes, model.config.cell.special_tokens
    cells = [shots.tokens.cell(row)[: model.config.max_genes] for row in rows]
    ids, mask = collate_tokens(
        cells,
        cls_id=None if special == "none" else genes.cls_id,
        eos_id=genes.eos_id if special == "cls_eos" else None,
        pad_id=genes.pad_id,
    )
    return CellBatch(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=torch.from_numpy(mask).to(model.device),
        labels=torch.from_numpy(shots.labels[rows].astype(np.int64)).to(model.device),
    )
