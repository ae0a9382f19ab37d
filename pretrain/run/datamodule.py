"""Lightning data module that streams the batches of a run."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from langcell.runtime.device import to_device
from pretrain.cells.step_cells import CellSource
from pretrain.parallel.gather import World
from pretrain.steps.collator import Collator, StepBatch


class StepStream(IterableDataset[StepBatch]):
    """Iterable dataset of the batches from a given step on."""

    def __init__(
        self,
        source: CellSource,
        collator: Collator,
        world: World,
        first_step: Callable[[], int],
        n_steps: int,
    ) -> None:
        self.source = source
        self.collator = collator
        self.world = world
        self.first_step = first_step
        self.n_steps = n_steps

    def __iter__(self) -> Iterator[StepBatch]:
        """Yield the remaining batches."""
        first = self.first_step()
        for cells in islice(self.source.steps(first, self.world), max(0, self.n_steps - first)):
            yield self.collator.build(cells, self.world)


class PretrainData(LightningDataModule):
    """Training data of a run; its position is the trainer's global step.

    Batches are built in the main process: that takes about 1 % of a step, and numba's thread pool
    must not be called from several threads at once.
    """

    def __init__(self, source: CellSource, collator: Collator, *, n_steps: int) -> None:
        super().__init__()
        self.source = source
        self.collator = collator
        self.n_steps = n_steps

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Return a loader of the batches from the trainer's step on."""
        stream = StepStream(
            self.source, self.collator, World.current(), self._first_step, self.n_steps
        )
        return DataLoader(stream, batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of each process's source after the last finished step."""
        # Lightning prefetches a batch, so the source itself may be one step ahead.
        return {
            "sources": World.current().gather_objects(
                self.source.state_after(self._first_step() - 1)
            )
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position of the source."""
        states, world = state_dict["sources"], World.current()
        self.source.load_state(states[world.rank if len(states) == world.size else 0])

    def transfer_batch_to_device(
        self, batch: StepBatch, device: torch.device, dataloader_idx: int
    ) -> StepBatch:
        """Move a batch; Lightning itself cannot rebuild a frozen dataclass."""
        return to_device(batch, device)

    def _first_step(self) -> int:
        return self.trainer.global_step if self.trainer else 0
