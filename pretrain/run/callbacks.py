"""Lightning callback of a run: checkpoints, validation, progress, and clean stops on a signal."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from langcell.model.langcell import LangCell
from langcell.runtime.output_file import replaced_file
from pretrain.parallel.gather import World
from pretrain.recipe.config import Recipe
from pretrain.recipe.random_state import RandomState, random_state, set_random_state
from pretrain.run.flops import flops_per_token, peak_flops
from pretrain.run.module import PretrainModule
from pretrain.run.run_folder import LAST
from pretrain.run.validation import RECALL_AT, StudyScore
from pretrain.steps.collator import StepBatch
from pretrain.steps.throughput import Throughput


class RunCallback(Callback):
    """Save checkpoints, score on the validation studies and keep the best model.

    Parameters
    ----------
    recipe
        Sets how often to log, validate and save.
    output
        Folder of the run: `last.ckpt` to resume from, `best/` with the model of the highest mean
        macro-F1 over the validation studies (the last one without validation), and `last/`.
    score
        Scores a model, once per study; returns an empty list without validation files.
    export
        Writes a model as a checkpoint folder.
    """

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        *,
        score: Callable[[LangCell], list[StudyScore]],
        export: Callable[[LangCell, Path], None],
    ) -> None:
        self.recipe = recipe
        self.output = output
        self.score = score
        self.export = export
        self.best = -1.0
        self.best_step = 0
        self.best_scores: list[dict[str, Any]] = []  # of the best model, one per study
        self.is_stopped = False
        self._rng: list[RandomState] = []
        self._device = torch.device("cpu")
        self._handlers: dict[signal.Signals, Any] = {}
        self.results: dict[str, Any] = {}  # for the run card, once the last step is done
        self._started = (0, 0.0)
        self._throughput = Throughput()  # by this process since the start

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs; Lightning saves it in the checkpoint."""
        rng = World.current().gather_objects(random_state(self._device))
        best = {"best": self.best, "best_step": self.best_step, "best_scores": self.best_scores}
        return {**best, "results": self.results, "rng": rng}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint, with the random state, which Lightning does not keep."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.best_scores = state_dict.get("best_scores", [])
        self.results = state_dict.get("results", {})
        self._rng = state_dict["rng"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGINT and SIGTERM: finish the current step, save a checkpoint, then stop."""
        self._started = (trainer.global_step, time.monotonic())
        if trainer.global_step and trainer.is_global_zero:
            _log(f"resuming after step {trainer.global_step}")
        self._device = pl_module.device
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._stop)
        # Restored here, as everything before may have drawn random numbers.
        world = World.current()
        if len(self._rng) == world.size:
            set_random_state(self._rng[world.rank], self._device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Log, validate and save at the intervals of the recipe."""
        assert isinstance(pl_module, PretrainModule)
        self._throughput = self._throughput.plus(batch, pl_module.model.config.cell.max_positions)
        pl_module.update_average(batch.step)
        step, is_last = batch.step + 1, batch.step + 1 == self.recipe.optimisation.steps
        if step % self.recipe.log_every == 0 or is_last:
            self._log_step(trainer, step)
        # If one process was told to stop, all stop after the same step.
        self.is_stopped = World.current().any(self.is_stopped)
        # Save before validating: a scheduler may not wait for a validation. After the last step the
        # checkpoint comes after it, as a resumed run would not repeat it.
        if self.is_stopped and not is_last:
            self._save(trainer)
        if step % self.recipe.validation.every == 0 or is_last:
            with pl_module.best_model() as model:
                if trainer.is_global_zero:
                    scores = self._validate(model, pl_module, step)
                    if is_last:
                        self.export(model, self.output / "last")
                        self.results = self._final_results(trainer, scores)
        if step % self.recipe.checkpoint_every == 0 or is_last or self.is_stopped:
            self._save(trainer)
        trainer.should_stop = trainer.should_stop or self.is_stopped

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def _final_results(self, trainer: Trainer, scores: list[StudyScore]) -> dict[str, Any]:
        """Return the results that the run card holds."""
        return {
            "best_step": self.best_step,
            "best_validation": self.best_scores,
            "last_validation": [asdict(each) for each in scores],
            "last_losses": _training_metrics(trainer),
        }

    def _validate(self, model: LangCell, module: PretrainModule, step: int) -> list[StudyScore]:
        scores = self.score(model)
        if not scores:
            self.best_step = step
            self.export(model, self.output / "best")
            return scores
        mean = sum(score.macro_f1 for score in scores) / len(scores)
        values = {"validation/macro_f1": mean}
        for score in scores:
            values[f"validation/accuracy/{score.study}"] = score.accuracy
            values[f"validation/macro_f1/{score.study}"] = score.macro_f1
            for k, recall in zip(RECALL_AT, score.recall, strict=True):
                values[f"validation/recall_at_{k}/{score.study}"] = recall
        for logger in module.loggers:
            logger.log_metrics(values, step=step)
        by_study = ", ".join(f"{s.study} {s.accuracy:.2f}/{s.macro_f1:.2f}" for s in scores)
        recalls = [
            sum(each) / len(scores) for each in zip(*(s.recall for s in scores), strict=True)
        ]
        among = ", ".join(f"R@{k} {each:.2f}" for k, each in zip(RECALL_AT, recalls, strict=True))
        _log(
            f"step {step}: validation macro-F1 {mean:.3f} (accuracy/macro-F1: {by_study}); "
            f"own text among all texts: {among}"
        )
        if mean > self.best:
            self.best, self.best_step = mean, step
            self.best_scores = [asdict(each) for each in scores]
            self.export(model, self.output / "best")
        return scores

    def _save(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.output / LAST)  # contributes its state, writes nothing
            return
        with replaced_file(self.output / LAST) as part:
            trainer.save_checkpoint(part)

    def _log_step(self, trainer: Trainer, step: int) -> None:
        total = self._throughput.of_all(World.current(), self._device)
        if not trainer.is_global_zero:
            return
        first, began = self._started
        seconds = max(1e-9, time.monotonic() - began)
        rates = {"cells_per_s": total.cells / seconds, "tokens_per_s": total.tokens / seconds}
        utilisation = self._utilisation(trainer, total, seconds)
        if utilisation:
            rates["of_peak_flops"] = utilisation
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(
                values | {f"rate/{name}": rate for name, rate in rates.items()}, step
            )
        left = (self.recipe.optimisation.steps - step) * seconds / (step - first)
        shown = " ".join(
            f"{name} {value:.3f}" for name, value in _training_metrics(trainer).items()
        )
        _log(
            f"step {step}/{self.recipe.optimisation.steps}: {shown}; "
            f"{rates['cells_per_s']:.0f} cells/s, {rates['tokens_per_s']:,.0f} tokens/s"
            f"{f', {utilisation:.0%} of peak FLOP/s' if utilisation else ''}, {left / 60:.1f} min left"
        )

    def _utilisation(self, trainer: Trainer, total: Throughput, seconds: float) -> float:
        """Return the encoder's share of the peak FLOP/s of all devices; 0 if unknown."""
        module = trainer.lightning_module
        assert isinstance(module, PretrainModule)
        peak = peak_flops(module.device)
        if not peak:
            return 0.0
        each = flops_per_token(module.model.config.cell, total.pairs / total.attended)
        return total.attended * each / (seconds * peak * trainer.world_size)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_stopped:  # second signal: do not wait for the step
            raise KeyboardInterrupt
        self.is_stopped = True

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def _training_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the losses and other logged values of the last step, by name."""
    return {
        name.removeprefix("train/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("train/")
    }


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
