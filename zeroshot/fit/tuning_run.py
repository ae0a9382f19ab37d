"""One training of a model on labelled cells, by Lightning."""

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
from zeroshot.fit.batches import collate_rows, draw_epoch
from zeroshot.fit.fit_head import LabelledCells
from zeroshot.fit.tuned_model import TunedModel
from zeroshot.fit.tuning_recipes import TuningRecipe


class TuningRun(LightningModule):
    """Trains, and looks after each epoch at cells that it does not learn from.

    Parameters
    ----------
    tuned: learns
    shots: to learn from
    recipe: how
    seed: of the draws
    held_out: cells to look at; None for none, and then for no early end
    count: called with the number of cells of each batch
    """

    def __init__(
        self,
        tuned: TunedModel,
        shots: LabelledCells,
        recipe: TuningRecipe,
        *,
        seed: int,
        held_out: LabelledCells | None,
        count: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.tuned = tuned
        self._shots, self._recipe, self._seed = shots, recipe, seed
        self._held_out, self._count = held_out, count
        self._has_cells = torch.from_numpy(shots.n_shots > 0)
        # Of the cells held out, (n_cells, n_labels), after 0, 1, ... epochs.
        self.log_probabilities: list[np.ndarray] = []

    def fit(self, n_epochs: int) -> None:
        """Train so many epochs, or fewer where the loss on cells held out no longer sinks."""
        self._look()
        if not n_epochs:
            return
        device = self.tuned.model.device
        # Few cells are few batches.
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
            self.train()  # with dropout; models come ready to infer
            _fit_interruptibly(trainer, self)

    def train_dataloader(self) -> DataLoader:
        """Return the rows of each batch of the epoch."""
        return DataLoader(self._draws(self.current_epoch), batch_size=None, collate_fn=_as_is)  # type: ignore[arg-type]

    def _draws(self, epoch: int) -> list[np.ndarray]:
        return draw_epoch(
            self._shots.labels,
            batch_size=self._recipe.batch_size,
            is_balanced=self._recipe.is_balanced,
            seed=self._seed,
            epoch=epoch,
        )

    def training_step(self, batch: np.ndarray) -> Tensor:
        """Return the loss of a batch of rows."""
        self._count(len(batch))
        return self.tuned.loss(
            collate_rows(self._shots, batch, self.tuned.model), self._has_cells.to(self.device)
        )

    def on_train_epoch_end(self) -> None:
        """Look at the cells held out."""
        self._look()
        patience, losses = self._recipe.patience, self.losses
        if patience is not None and losses and len(losses) - 1 - np.argmin(losses) >= patience:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW over what learns, and the course of its rate."""
        learns = [each for each in self.parameters() if each.requires_grad]
        recipe = self._recipe
        optimizer = torch.optim.AdamW(
            learns, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        n_steps = self._n_epochs * len(self._draws(0))

        def share(step: int) -> float:
            rise = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
            after = max(1, n_steps - recipe.warmup_steps)
            return min(rise, max(0.0, (n_steps - step) / after)) if recipe.decays else rise

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def losses(self) -> list[float]:
        """Cross-entropy of the cells held out after 0, 1, ... epochs, labels weighing alike."""
        if self._held_out is None:
            return []
        labels = self._held_out.labels
        weights = 1 / np.bincount(labels)[labels]
        rows = np.arange(len(labels))
        return [
            float(-np.average(each[rows, labels], weights=weights))
            for each in self.log_probabilities
        ]

    def _look(self) -> None:
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
    """Fit, and pass on Ctrl-C, of which Lightning makes an exit without a word."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(run)
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt("stopped while tuning; nothing was written") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # which Lightning leaves switched off


def _as_is(rows: np.ndarray) -> np.ndarray:
    return rows
