"""How much a run has read, for the rates that it reports."""

from dataclasses import astuple, dataclass

import torch

from pretrain.parallel.gather import World
from pretrain.steps.collator import StepBatch


@dataclass(frozen=True)
class Throughput:
    """What was read since a run began or went on.

    Attributes
    ----------
    tokens
        Of all rows, padding left out.
    attended
        Of them those that have a position in the encoder; a bag of genes reads more.
    pairs
        Of attended tokens of the same row.
    cells
        Cells alone.
    """

    tokens: int = 0
    attended: int = 0
    pairs: int = 0
    cells: int = 0

    def plus(self, batch: StepBatch, n_positions: int) -> "Throughput":
        """Return the counts after one more batch, of an encoder with so many positions."""
        lengths = batch.attention_mask.sum(dim=1)
        attended = lengths.clamp(max=n_positions)
        return Throughput(
            tokens=self.tokens + int(lengths.sum()),
            attended=self.attended + int(attended.sum()),
            pairs=self.pairs + int(attended.square().sum()),
            cells=self.cells + batch.n_cells,
        )

    def of_all(self, world: World, device: torch.device) -> "Throughput":
        """Return the sums over processes, each of which must ask."""
        return Throughput(*world.total(torch.tensor(astuple(self), device=device)).tolist())
