"""The training loop's side of the model: losses, optimiser, schedule, averaged weights."""

import copy
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from langcell.model import LangCell
from pretrain.collate import StepBatch
from pretrain.config import Optimisation, Recipe
from pretrain.objective import TextTensors, training_losses
from pretrain.teachers import Teachers


class PretrainModule(LightningModule):
    """Trains a `LangCell`.

    Parameters
    ----------
    model
        What to train; its text tower is frozen.
    recipe
        Weights of the losses, optimiser.
    texts
        Precomputed texts; not part of the saved state.
    teachers
        For the distillation loss.
    """

    def __init__(
        self,
        model: LangCell,
        recipe: Recipe,
        texts: TextTensors,
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.texts = texts
        self._teachers = [teachers]  # in a list, so that the module does not count them as its own
        model.logit_scale.requires_grad_(recipe.model.learn_temperature)
        # Averaged weights vary less from step to step than the last ones, and score better.
        self.average: LangCell | None = None
        if recipe.optimisation.average:
            self.average = copy.deepcopy(model).requires_grad_(False)

    @property
    def best_model(self) -> LangCell:
        """The weights to judge and keep: the averaged ones where there are any."""
        return self.average or self.model

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Return the weighted sum of the losses of one step."""
        weights = self.recipe.losses
        losses = training_losses(
            self.model,
            batch,
            self.texts,
            weights,
            seed=self.recipe.seed,
            teachers=self._teachers[0],
        )
        total = torch.stack([getattr(weights, name) * loss for name, loss in losses.items()]).sum()
        if not bool(torch.isfinite(total)):
            values = ", ".join(f"{name}={loss.item():.3g}" for name, loss in losses.items())
            raise ValueError(f"step {batch.step}: the loss is not finite ({values}); lower the lr")
        logged = {"loss": total, **losses, "logit_scale": self.model.scale}
        self.log_dict({f"train/{name}": value.detach() for name, value in logged.items()})
        return total

    def update_average(self, step: int) -> None:
        """Move the averaged weights towards those after a step.

        The keeper calls this: Lightning runs a module's own hook after the callbacks, so what they
        save would lack the step.
        """
        if self.average is None:
            return
        # A short memory at first, or the random start would stay in the average for long.
        decay = min(self.recipe.optimisation.average, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for averaged, new in pairs:
                averaged.lerp_(new, 1 - decay)

    def configure_optimizers(self) -> Any:
        """Return AdamW without decay on biases and norms, and a warmed-up cosine schedule."""
        settings = self.recipe.optimisation
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def learning_rate_factor(step: int, settings: Optimisation) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then half a cosine.

    >>> settings = Optimisation(steps=110, warmup=10, final_lr=0.0)
    >>> [round(learning_rate_factor(step, settings), 3) for step in (0, 9, 10, 60, 110)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    progress = min(1.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return settings.final_lr + (1 - settings.final_lr) * cosine
