"""Batch sizes of all processes in a step, which differ if batches are limited by tokens."""

from dataclasses import dataclass

import torch

from pretrain.parallel.gather import World
from pretrain.steps.collator import StepBatch


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Batch sizes of all processes in a step, known to each of them.

    Attributes
    ----------
    cells, second, masked
        Number of cells, second views and masked positions of each process, by rank.
    """

    cells: tuple[int, ...]
    second: tuple[int, ...]
    masked: tuple[int, ...]

    @classmethod
    def of(cls, batch: StepBatch, world: World) -> "StepSizes":
        """Exchange the sizes of a step over processes.

        This must happen before encoding: processes may have different numbers of micro-batches, so
        a collective call within one would hang.
        """
        n_second = len(batch.input_ids) - batch.n_cells
        own = [batch.n_cells, n_second, len(batch.masked_rows)]
        table = world.gather(torch.tensor([own], device=batch.input_ids.device))  # (size, 3)
        cells, second, masked = map(tuple, table.T.tolist())
        return cls(cells=cells, second=second, masked=masked)

    @property
    def rows(self) -> tuple[int, ...]:
        """Number of cells plus second views of each process."""
        return tuple(map(sum, zip(self.cells, self.second, strict=True)))
