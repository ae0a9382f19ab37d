"""Seeded batches of labelled cells for fine-tuning."""

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
    """A batch of labelled cells for a cell encoder.

    Attributes
    ----------
    input_ids: gene tokens, shape (n_cells, t)
    attention_mask: bool, shape (n_cells, t)
    labels: label index of each cell, int64, shape (n_cells,)
    """

    input_ids: "Tensor"
    attention_mask: "Tensor"
    labels: "Tensor"


def sample_epoch(
    labels: np.ndarray, *, batch_size: int, is_balanced: bool, seed: int, epoch: int
) -> list[np.ndarray]:
    """Sample the rows of each batch of an epoch; an epoch has as many cells as the data.

    Parameters
    ----------
    labels: label index of each cell, int, shape (n_cells,)
    batch_size: number of cells in a batch; the last batch may have fewer
    is_balanced: sample labels evenly, with at least one full batch; else permute the cells
    seed, epoch: seed of the sample

    Examples
    --------
    >>> labels = np.array([0] * 90 + [1] * 6)
    >>> batches = sample_epoch(labels, batch_size=32, is_balanced=True, seed=0, epoch=0)
    >>> len(batches), np.bincount(labels[batches[0]]).tolist()
    (3, [16, 16])
    """
    rng = np.random.default_rng([seed, epoch])
    n_cells = len(labels)
    if is_balanced:
        n_sampled = max(n_cells, batch_size)
        members = [np.flatnonzero(labels == each) for each in np.unique(labels)]
        cycles = [_cycle(each, -(-n_sampled // len(members)), rng) for each in members]
        order = np.concatenate(
            [rng.permutation(one_per_label) for one_per_label in zip(*cycles, strict=True)]
        )[:n_sampled]
    else:
        order = rng.permutation(n_cells)
    starts = range(0, len(order), batch_size)
    return [order[start : start + batch_size] for start in starts]


def _cycle(members: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n rows: permutations of the members, one after the other."""
    passes = [rng.permutation(members) for _ in range(-(-n // len(members)))]
    return np.concatenate(passes)[:n]


def collate_rows(labelled: LabelledCells, rows: np.ndarray, model: "LangCell") -> CellBatch:
    """Return a batch padded to its longest cell, on the device of the model."""
    import torch

    genes, special = model.genes, model.config.cell.special_tokens
    cells = [labelled.tokens.cell(row)[: model.config.max_genes] for row in rows]
    ids, mask = collate_tokens(
        cells,
        cls_id=None if special == "none" else genes.cls_id,
        eos_id=genes.eos_id if special == "cls_eos" else None,
        pad_id=genes.pad_id,
    )
    return CellBatch(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=torch.from_numpy(mask).to(model.device),
        labels=torch.from_numpy(labelled.labels[rows].astype(np.int64)).to(model.device),
    )
