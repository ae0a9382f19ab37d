"""Fine-tune a model on labelled cells, and evaluate it on held-out cells."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from langcell.model.langcell import LangCell
from langcell.runtime.parameter_names import option
from zeroshot.fit.fit_head import LabelledCells, empty_head, folds
from zeroshot.fit.tuned_model import LabelTexts, TunedModel
from zeroshot.fit.tuning_recipes import RECIPES, TuningRecipe
from zeroshot.fit.tuning_run import TuningRun
from zeroshot.heads.few_shot_head import FewShotHead

_MAX_FOLDS = 3
Progress = Callable[[int, int], None]  # cells trained on so far, and at most in total


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedHead:
    """A head, and predictions of the cells while they were held out.

    Attributes
    ----------
    head: fitted head, without a calibration
    held_out: rows of held-out cells and their log-probabilities, for each fold
    n_epochs: number of epochs that the head was trained for
    """

    head: FewShotHead
    held_out: list[tuple[np.ndarray, np.ndarray]]
    n_epochs: int


def tune_head(
    labelled: LabelledCells,
    kind: str,
    *,
    model: LangCell,
    labels: LabelTexts,
    seed: int,
    progress: Progress | None = None,
) -> TunedHead:
    """Fine-tune the model together with a head.

    If the recipe sets a patience, the number of epochs is the one with the lowest loss on held-out
    cells, over up to three folds that keep groups together; it can be zero. The head is then trained
    on all cells. The same seed, cells and threads give the same head. Memory is that of the model,
    three times its trainable weights, and a batch.

    Parameters
    ----------
    labelled: labelled cells
    kind: one of `zeroshot.fit.tuning_recipes.RECIPES`
    model: model that embedded the cells; it is not changed
    labels: labels of the cells
    seed: seed of batches, adapters and dropout
    progress: called after each batch

    Raises
    ------
    ValueError
        If the model lacks what the recipe tunes, or the cells lack labels that it needs.
    """
    recipe = RECIPES[kind]
    check_labels(labelled, kind)
    parts = list(folds(labelled, max_folds=_MAX_FOLDS))
    tuning = _Tuning(model, labels, recipe, seed, _Progress(labelled, len(parts), recipe, progress))
    runs = [
        tuning.run(labelled.part(seen), recipe.epochs, labelled.part(out)) for seen, out in parts
    ]
    n_epochs = _choose_epochs([run.losses for run in runs], [len(out) for _, out in parts], recipe)
    held_out = [
        (out, run.log_probabilities[min(n_epochs, len(run.log_probabilities) - 1)])
        for (_, out), run in zip(parts, runs, strict=True)
    ]
    tuned = tuning.run(labelled, n_epochs).tuned
    head = replace(
        empty_head(labelled, kind),
        text_weight=float(recipe.reads_texts),
        feature_weights=tuned.feature_weights(),
        intercepts=tuned.intercepts.detach().cpu().numpy().copy(),
        changes=tuned.changes(),
        matches=recipe.matches,
    )
    return TunedHead(head=head, held_out=held_out, n_epochs=n_epochs)


def check_labels(labelled: LabelledCells, kind: str) -> None:
    """Check that a recipe can be trained on these labels.

    Raises
    ------
    ValueError
        If only one label has cells, or a label without cells is not scored by its text.
    """
    if np.count_nonzero(labelled.n_shots) < 2:
        raise ValueError(
            f"a {kind} head needs cells of at least two labels, got one; label cells of another, or "
            f"pass {option('kind', 'prototype', flag='--head')}"
        )
    if not RECIPES[kind].reads_texts and not labelled.n_shots.all():
        without = labelled.keys[int(np.argmin(labelled.n_shots))]
        raise ValueError(
            f"a {kind} head is trained on cells only, and label {without} has none; leave it out, or "
            f"use a head that scores labels by text, such as {option('kind', 'lora', flag='--head')}"
        )


@dataclass(frozen=True)
class _Tuning:
    """What the training runs of a head have in common."""

    model: LangCell
    labels: LabelTexts
    recipe: TuningRecipe
    seed: int
    progress: "_Progress"

    def run(
        self, labelled: LabelledCells, n_epochs: int, held_out: LabelledCells | None = None
    ) -> TuningRun:
        # Seed adapters and dropout without changing the global random state.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            tuned = TunedModel(self.model, self.labels, self.recipe)
            run = TuningRun(
                tuned,
                labelled,
                self.recipe,
                seed=self.seed,
                held_out=held_out,
                count=self.progress.count,
            )
            run.fit(n_epochs)
        self.progress.finish_run()
        return run


class _Progress:
    """Counts cells over all training runs; early stopping skips some."""

    def __init__(
        self, labelled: LabelledCells, n_folds: int, recipe: TuningRecipe, progress: Progress | None
    ) -> None:
        self._per_run = max(len(labelled), recipe.batch_size) * recipe.epochs
        self._n_left = n_folds + 1
        self._n_done = self._n_before = 0  # cells in all, and in finished runs
        self._progress = progress

    def count(self, n_cells: int) -> None:
        self._n_done += n_cells
        if self._progress is not None:
            n_all = self._n_before + self._n_left * self._per_run
            self._progress(self._n_done, max(self._n_done, n_all))

    def finish_run(self) -> None:
        self._n_left -= 1
        self._n_before = self._n_done


def _choose_epochs(curves: list[list[float]], sizes: list[int], recipe: TuningRecipe) -> int:
    """Return the number of epochs with the lowest mean loss on held-out cells.

    >>> _choose_epochs([[3.0, 1.0, 2.0], [3.0, 2.0]], [5, 5], RECIPES["lora"])
    1
    """
    if recipe.patience is None:
        return recipe.epochs
    if not curves:
        return recipe.unjudged_epochs or 0
    # Compare the epochs that all folds ran: a fold that stopped early had its minimum before.
    shared = min(map(len, curves))
    means = np.average([curve[:shared] for curve in curves], axis=0, weights=sizes)
    return int(np.argmin(means))
