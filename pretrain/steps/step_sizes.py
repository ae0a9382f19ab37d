"""How much of a step each process has; where tokens limit a batch, the numbers of cells differ."""

from dataclasses import dataclass

import torch

from pretrain.parallel.gather import World
from pretrain.steps.collator import StepBatch


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Sizes of the shares of a step, the same in all processes.

    Attributes
    ----------
    cells, second, masked
        Cells, second views and masked positions of each process, by rank.
    """

    cells: tuple[int, ...]
    second: tuple[int, ...]
    masked: tuple[int, ...]

    @classmethod
    def of(cls, batch: StepBatch, world: World) -> "StepSizes":
        """Exchange the sizes of a step.

        Once, before all else: processes may cut their shares into different numbers of parts, and
        what is exchanged within a part would find no partner.
        """
        n_second = len(batch.input_ids) - batch.n_cells
        own = [batch.n_cells, n_second, len(batch.masked_rows)]
        table = world.gather(torch.tensor([own], device=batch.input_ids.device))  # (size, 3)
        cells, second, masked = map(tuple, table.T.tolist())
        return cls(cells=cells, second=second, masked=masked)

    @property
    def rows(self) -> tuple[int, ...]:
        """Cells and second views of each process together."""
        return tuple(map(sum, zip(self.cells, self.second, strict=True)))
