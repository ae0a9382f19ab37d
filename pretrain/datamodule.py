"""The stream of training steps as Lightning wants it."""

from collections.abc import Callable, Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from pretrain.collate import StepBatch, StepBuilder
from pretrain.gather import World


class StepStream(IterableDataset[StepBatch]):
    """Batches from a first step on; the step is all the state there is."""

    def __init__(
        self, builder: StepBuilder, world: World, first_step: Callable[[], int], n_steps: int
    ) -> None:
        self.builder = builder
        self.world = world
        self.first_step = first_step
        self.n_steps = n_steps

    def __iter__(self) -> Iterator[StepBatch]:
        """Yield the batches that are left."""
        for step in range(self.first_step(), self.n_steps):
            yield self.builder.build(step, self.world)


class PretrainData(LightningDataModule):
    """Training data of a run; where it stands is the trainer's global step.

    Batches are built in the main process: that takes a hundredth of the time of a step, and
    numba's threads must not be called from several at once.
    """

    def __init__(self, builder: StepBuilder, *, n_steps: int) -> None:
        super().__init__()
        self.builder = builder
        self.n_steps = n_steps

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Return the steps from the trainer's on."""

        def first_step() -> int:
            return self.trainer.global_step if self.trainer else 0

        stream = StepStream(self.builder, World.here(), first_step, self.n_steps)
        return DataLoader(stream, batch_size=None)

    def transfer_batch_to_device(
        self, batch: StepBatch, device: torch.device, dataloader_idx: int
    ) -> StepBatch:
        """Move a batch; Lightning itself cannot rebuild a frozen dataclass."""
        return batch.to(device)
