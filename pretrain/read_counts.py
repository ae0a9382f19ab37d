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
    pairs
        Of tokens of the same row, each of which attention looks at.
    cells
        Cells alone.
    """

    tokens: int = 0
    pairs: int = 0
    cells: int = 0

    def plus(self, batch: StepBatch) -> "ReadCounts":
        """Return the counts after one more batch."""
        lengths = batch.attention_mask.sum(dim=1)
        return ReadCounts(
            tokens=self.tokens + int(lengths.sum()),
            pairs=self.pairs + int(lengths.square().sum()),
            cells=self.cells + batch.n_cells,
        )

    def of_all(self, world: World, device: torch.device) -> "ReadCounts":
        """Return the sums over processes, each of which must ask."""
        tokens, pairs, cells = world.total(torch.tensor(astuple(self), device=device)).tolist()
        return ReadCounts(tokens=tokens, pairs=pairs, cells=cells)
