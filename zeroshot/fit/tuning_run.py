"""Train a model on labelled cells with Lightning."""

import signal
import threading
from collections.abc import Callable

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader

from langcell.nn.bert import inference
from langcell.runtime.lightning_messages import quiet_lightning
from zeroshot.fit.batches import collate_rows, sample_epoch
from zeroshot.fit.fit_head import LabelledCells
from zeroshot.fit.tuned_model import TunedModel
from zeroshot.fit.tuning_recipes import TuningRecipe


class TuningRun(LightningModule):
    """Lightning module that trains, and evaluates held-out cells after each epoch.

    Parameters
    ----------
    tuned: model to train
    labelled: training cells
    recipe: training settings
    seed: seed of the batches
    held_out: cells to evaluate; None for none, and no early stopping
    count: called with the number of cells of each batch
    """

    def __init__(
        self,
        tuned: TunedModel,
        labelled: LabelledCells,
        recipe: TuningRecipe,
        *,
        seed: int,
        held_out: LabelledCells | None,
        count: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.tuned = tuned
        self._labelled, self._recipe, self._seed = labelled, recipe, seed
        self._held_out, self._count = held_out, count
        self._has_cells = torch.from_numpy(labelled.n_shots > 0)
        # Of the held-out cells, (n_cells, n_labels), after 0, 1, ... epochs.
        self.log_probabilities: list[np.ndarray] = []

    def fit(self, n_epochs: int) -> None:
        """Train for `n_epochs`, or fewer if early stopping applies."""
        self._evaluate()
        if not n_epochs:
            return
        device = self.tuned.model.device
        # Silence the warning about few batches.
        with quiet_lightning(".*number of training batches.*"):
            trainer = Trainer(
                accelerator=device.type,
                devices=[device.index or 0] if device.type == "cuda" else 1,
                max_epochs=n_epochs,
                reload_dataloaders_every_n_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            self._n_epochs = n_epochs
            self.train()  # models are loaded in eval mode
            _fit_interruptibly(trainer, self)

    def train_dataloader(self) -> DataLoader:
        """Return the rows of each batch of the epoch."""
        batches = self._batches(self.current_epoch)
        return DataLoader(batches, batch_size=None, collate_fn=_identity)  # type: ignore[arg-type]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        return sample_epoch(
            self._labelled.labels,
            batch_size=self._recipe.batch_size,
            is_balanced=self._recipe.is_balanced,
            seed=self._seed,
            epoch=epoch,
        )

    def training_step(self, batch: np.ndarray) -> Tensor:
        """Return the loss of a batch of rows."""
        self._count(len(batch))
        return self.tuned.loss(
            collate_rows(self._labelled, batch, self.tuned.model), self._has_cells.to(self.device)
        )

    def on_train_epoch_end(self) -> None:
        """Evaluate the held-out cells, and stop if the loss has not improved for `patience` epochs."""
        self._evaluate()
        patience, losses = self._recipe.patience, self.losses
        if patience is not None and losses and len(losses) - 1 - np.argmin(losses) >= patience:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW over the trainable weights, with the learning rate schedule."""
        trainable = [each for each in self.parameters() if each.requires_grad]
        recipe = self._recipe
        optimizer = torch.optim.AdamW(
            trainable, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        n_steps = self._n_epochs * len(self._batches(0))

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
            n_decay = max(1, n_steps - recipe.warmup_steps)
            return min(warmup, max(0.0, (n_steps - step) / n_decay)) if recipe.decays else warmup

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def losses(self) -> list[float]:
        """Cross-entropy of the held-out cells after 0, 1, ... epochs; labels have equal weight."""
        if self._held_out is None:
            return []
        labels = self._held_out.labels
        weights = 1 / np.bincount(labels)[labels]
        rows = np.arange(len(labels))
        return [
            float(-np.average(each[rows, labels], weights=weights))
            for each in self.log_probabilities
        ]

    def _evaluate(self) -> None:
        """Append the log-probabilities of the held-out cells."""
        if self._held_out is None:
            return
        found, size = [], self._recipe.batch_size
        with inference(self.tuned):
            for start in range(0, len(self._held_out), size):
                rows = np.arange(start, min(start + size, len(self._held_out)))
                batch = collate_rows(self._held_out, rows, self.tuned.model)
                found.append(self.tuned.log_probabilities(batch).cpu().numpy())
        self.log_probabilities.append(np.concatenate(found))


def _fit_interruptibly(trainer: Trainer, run: TuningRun) -> None:
    """Fit, and raise KeyboardInterrupt on Ctrl-C, for which Lightning exits without a message."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(run)
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt("interrupted during fine-tuning; nothing was written") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning does not restore it


def _identity(rows: np.ndarray) -> np.ndarray:
    return rows
