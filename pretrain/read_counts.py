"""How much a run has read, for the rates that it reports."""

from dataclasses import astuple, dataclass

import torch

from pretrain.collate import StepBatch
from pretrain.gather import World


@dataclass(frozen=True, kw_only=True)
class ReadCounts:
    """What was read since a run began or went on.

    Attributes
    ----------
    tokens
        Of all rows, padding left out.
    rows
        Cells, and second views of some of them.
    cells
        Cells alone.
    """

    tokens: int = 0
    rows: int = 0
    cells: int = 0

    def plus(self, batch: StepBatch) -> "ReadCounts":
        """Return the counts after one more batch."""
        return ReadCounts(
            tokens=self.tokens + int(batch.attention_mask.sum()),
            rows=self.rows + len(batch.input_ids),
            cells=self.cells + batch.n_cells,
        )

    def of_all(self, world: World, device: torch.device) -> "ReadCounts":
        """Return the sums over processes, each of which must ask."""
        tokens, rows, cells = world.total(torch.tensor(astuple(self), device=device)).tolist()
        return ReadCounts(tokens=tokens, rows=rows, cells=cells)
