"""The stream of training steps as Lightning wants it."""

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
    """Batches from a first step on."""

    def __init__(
        self,
        source: CellSource,
        builder: Collator,
        world: World,
        first_step: Callable[[], int],
        n_steps: int,
    ) -> None:
        self.source = source
        self.builder = builder
        self.world = world
        self.first_step = first_step
        self.n_steps = n_steps

    def __iter__(self) -> Iterator[StepBatch]:
        """Yield the batches that are left."""
        first = self.first_step()
        for cells in islice(self.source.steps(first, self.world), max(0, self.n_steps - first)):
            yield self.builder.build(cells, self.world)


class PretrainData(LightningDataModule):
    """Training data of a run; where it stands is the trainer's global step.

    Batches are built in the main process: that takes a hundredth of the time of a step, and
    numba's threads must not be called from several at once.
    """

    def __init__(self, source: CellSource, builder: Collator, *, n_steps: int) -> None:
        super().__init__()
        self.source = source
        self.builder = builder
        self.n_steps = n_steps

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Return the steps from the trainer's on."""
        stream = StepStream(self.source, self.builder, World.here(), self._first_step, self.n_steps)
        return DataLoader(stream, batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """Return where the source of each process stands after the last step that was made."""
        # Lightning asks for a batch ahead, so the source itself may be further.
        return {
            "sources": World.here().gather_objects(self.source.state_after(self._first_step() - 1))
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was."""
        states, world = state_dict["sources"], World.here()
        self.source.load_state(states[world.rank if len(states) == world.size else 0])

    def transfer_batch_to_device(
        self, batch: StepBatch, device: torch.device, dataloader_idx: int
    ) -> StepBatch:
        """Move a batch; Lightning itself cannot rebuild a frozen dataclass."""
        return to_device(batch, device)

    def _first_step(self) -> int:
        return self.trainer.global_step if self.trainer else 0
