"""Counts of cells and tokens, for the rates that a run logs."""

from dataclasses import astuple, dataclass

import torch

from pretrain.parallel.gather import World
from pretrain.steps.collator import StepBatch


@dataclass(frozen=True)
class Throughput:
    """Numbers of tokens and cells since a run started or resumed.

    Attributes
    ----------
    tokens
        Tokens of all rows, without padding.
    attended
        Tokens with a position in the encoder; a bag of genes reads all tokens.
    pairs
        Pairs of attended tokens of the same row.
    cells
        Cells, without second views.
    """

    tokens: int = 0
    attended: int = 0
    pairs: int = 0
    cells: int = 0

    def plus(self, batch: StepBatch, n_positions: int) -> "Throughput":
        """Return the counts after one more batch, for an encoder with `n_positions`."""
        lengths = batch.attention_mask.sum(dim=1)
        attended = lengths.clamp(max=n_positions)
        return Throughput(
            tokens=self.tokens + int(lengths.sum()),
            attended=self.attended + int(attended.sum()),
            pairs=self.pairs + int(attended.square().sum()),
            cells=self.cells + batch.n_cells,
        )

    def of_all(self, world: World, device: torch.device) -> "Throughput":
        """Return the sums over processes, all of which must call this."""
        return Throughput(*world.total(torch.tensor(astuple(self), device=device)).tolist())
