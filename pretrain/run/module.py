"""Lightning module of a run: losses, optimiser, learning rate schedule, averaged weights."""

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy

from langcell.model.langcell import LangCell
from langcell.runtime.device import to_device
from pretrain.parallel.gather import World
from pretrain.parallel.sharding import (
    average_gradients,
    clip_gradients,
    full_weights,
    is_sharded,
    shard_weights,
)
from pretrain.recipe.config import Optimisation, Recipe
from pretrain.steps.collator import StepBatch
from pretrain.steps.gradient import add_gradients
from pretrain.steps.objective import Objective, TextTensors
from pretrain.steps.teachers import Teachers

_FIRST_BIAS = -10.0  # as in SigLIP: nearly all pairs are negative


class PretrainModule(LightningModule):
    """Lightning module that trains a `LangCell`.

    Parameters
    ----------
    model
        Model to train; only weights that require gradients change.
    recipe
        Loss weights and optimiser settings.
    texts
        Precomputed text tensors; not part of the saved state.
    teachers
        Teachers of the distillation loss.
    """

    def __init__(
        self,
        model: LangCell,
        recipe: Recipe,
        texts: TextTensors,
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a step may run backward once per micro-batch
        self.model = model
        self.recipe = recipe
        self.texts = texts
        self._teachers = [teachers]  # in a list, so that they are not registered as submodules
        model.logit_scale.requires_grad_(recipe.model.learn_temperature)
        self.bias: torch.nn.Parameter | None = None
        if recipe.losses.contrast == "sigmoid":
            self.bias = torch.nn.Parameter(torch.tensor(_FIRST_BIAS))
        # Averaged weights vary less between steps than the current ones, and score better.
        self.average: LangCell | None = None
        if recipe.optimisation.average:
            self.average = copy.deepcopy(model).requires_grad_(False)
        self._is_sharded = False
        self._full_model: list[LangCell] = []  # with FSDP, a full copy in the first process

    def configure_model(self) -> None:
        """Shard the weights, if the strategy has a device mesh."""
        if self.device_mesh is None or self._is_sharded:
            return
        self._is_sharded = True
        # Else a checkpoint must hold optimiser state for weights that no loss uses.
        self.strict_loading = False
        if self.global_rank == 0:
            self._full_model = [copy.deepcopy(self.model)]
        shard_weights(self.model, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Move texts and teachers to the device of the model."""
        self.texts = to_device(self.texts, self.device)
        if teachers := self._teachers[0]:
            self._teachers = [to_device(teachers, self.device)]

    @contextmanager
    def best_model(self) -> Iterator[LangCell]:
        """Yield the model to validate and save, with averaged weights if there are any.

        All processes must call this; with sharded weights only the first gets the full model.
        """
        weights = full_weights(self.model) if self._is_sharded else {}
        if not weights:
            yield self.average or self.model
            return
        (full,) = self._full_model
        full.load_state_dict(weights)
        yield full.to(self.device)
        full.cpu()

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Run one optimiser step."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        objective = Objective(
            model=self.model,
            texts=self.texts,
            weights=self.recipe.losses,
            world=World.current(),
            teachers=self._teachers[0],
            bias=self.bias,
            seed=self.recipe.seed,
        )
        optimizer.zero_grad()
        losses = add_gradients(
            objective,
            batch,
            part=self.recipe.optimisation.part,
            backward=self.manual_backward,
            hold=self._hold,
        )
        losses = dict(
            zip(losses, objective.world.mean(torch.stack([*losses.values()])), strict=True)
        )
        total = objective.total(losses)
        if not bool(torch.isfinite(total)):
            values = ", ".join(f"{name}={loss.item():.3g}" for name, loss in losses.items())
            raise ValueError(
                f"step {batch.step}: the loss is not finite ({values}); lower optimisation.lr"
            )
        parameters = list(self.parameters())
        if self._is_sharded:
            average_gradients(parameters, objective.world)
        norm = clip_gradients(parameters, self.recipe.optimisation.clip)
        (lr, *_) = schedule.get_last_lr()
        optimizer.step()
        schedule.step()
        logged = {
            "loss": total,
            **losses,
            "logit_scale": self.model.scale.detach(),
            "gradient_norm": norm,
        }
        named = {f"train/{name}": value for name, value in logged.items()}
        self.log_dict({**named, "lr": lr}, logger=False)  # RunCallback logs them

    def _hold(self) -> AbstractContextManager[object]:
        # Sharded weights reduce the gradient of every micro-batch: full gradients do not fit.
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the current ones after a step.

        `RunCallback` calls this: Lightning runs the module's own hook after the callbacks, so their
        checkpoints would miss the step.
        """
        if self.average is None:
            return
        # A small decay at first, else the random start stays in the average for long.
        decay = min(self.recipe.optimisation.average, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for averaged, new in pairs:
                averaged.lerp_(new, 1 - decay)

    def configure_optimizers(self) -> Any:
        """Return AdamW without weight decay on biases and norms, and the learning rate schedule."""
        settings, tower = self.recipe.optimisation, self.model.text_encoder
        tower_weights = (
            [] if tower is None else [each for each in tower.parameters() if each.requires_grad]
        )
        inside = {id(each) for each in tower_weights}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in inside]
        groups = [
            {"params": params, "weight_decay": decay, "lr": lr}
            for some, lr in (
                (others, settings.lr),
                (tower_weights, settings.lr * self.recipe.text.lr),
            )
            for decays, decay in ((True, settings.weight_decay), (False, 0.0))
            for sharded in (False, True)  # one optimiser group cannot mix the two
            if (params := [p for p in some if (p.ndim > 1) == decays and is_sharded(p) == sharded])
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
    """Return the factor on the learning rate at a step: linear warm-up, then the schedule.

    The schedule is half a cosine, linear, constant, or "decay": constant, then linear over the last
    steps (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395).

    >>> settings = Optimisation(steps=110, warmup=10, final_lr=0.0)
    >>> [round(learning_rate_factor(step, settings), 3) for step in (0, 9, 10, 60, 110)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    progress = min(1.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    left = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1.0,
        "decay": min(1.0, (1 - progress) / settings.decay),
    }[settings.schedule]
    return settings.final_lr + (1 - settings.final_lr) * left
