"""Tune a model on labelled cells, and judge it on cells that it did not see."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from langcell.model.langcell import LangCell
from zeroshot.fit.fit_head import LabelledCells, empty_head, folds
from zeroshot.fit.tuned_model import LabelTexts, TunedModel
from zeroshot.fit.tuning_recipes import RECIPES, TuningRecipe
from zeroshot.fit.tuning_run import TuningRun
from zeroshot.heads.few_shot_head import FewShotHead

_MOST_FOLDS = 3
Progress = Callable[[int, int], None]  # cells learnt from so far, and all that there may be


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedHead:
    """A head, and what models that did not see the cells said of them.

    Attributes
    ----------
    head: without a calibration
    held_out: rows of cells and their log-probabilities, fold by fold
    n_epochs: that the head learnt for
    """

    head: FewShotHead
    held_out: list[tuple[np.ndarray, np.ndarray]]
    n_epochs: int


def tune_head(
    shots: LabelledCells,
    kind: str,
    *,
    model: LangCell,
    labels: LabelTexts,
    seed: int,
    progress: Progress | None = None,
) -> TunedHead:
    """Tune a head together with the model.

    With patience the number of epochs is that with the least loss on cells held out, in up to three
    folds that keep groups together; none at all is one of the choices. Then all cells are learnt
    from. The same seed, cells and threads give the same head. Memory is that of the model, thrice
    of what of it learns, and a batch.

    Parameters
    ----------
    shots: labelled cells
    kind: one of `zeroshot.fit.tuning_recipes.RECIPES`
    model: as it was when the shots were read; it stays as it is
    labels: of the shots
    seed: of draws, adapters and dropout
    progress: called after each batch

    Raises
    ------
    ValueError
        If the model has not what the recipe tunes, or cells have not what it learns from.
    """
    recipe = RECIPES[kind]
    check_labels(shots, kind)
    parts = list(folds(shots, most=_MOST_FOLDS))
    tuning = _Tuning(model, labels, recipe, seed, _Progress(shots, len(parts), recipe, progress))
    runs = [tuning.run(shots.part(seen), recipe.epochs, shots.part(out)) for seen, out in parts]
    n_epochs = _choose_epochs([run.losses for run in runs], [len(out) for _, out in parts], recipe)
    held_out = [
        (out, run.log_probabilities[min(n_epochs, len(run.log_probabilities) - 1)])
        for (_, out), run in zip(parts, runs, strict=True)
    ]
    tuned = tuning.run(shots, n_epochs).tuned
    head = replace(
        empty_head(shots, kind),
        text_weight=float(recipe.reads_texts),
        feature_weights=tuned.feature_weights(),
        intercepts=tuned.intercepts.detach().cpu().numpy().copy(),
        changes=tuned.changes(),
        matches=recipe.matches,
    )
    return TunedHead(head=head, held_out=held_out, n_epochs=n_epochs)


def check_labels(shots: LabelledCells, kind: str) -> None:
    """Refuse labels that a recipe cannot learn.

    Raises
    ------
    ValueError
        If no text speaks for a label and it has no cells, or there are cells of one label alone.
    """
    if np.count_nonzero(shots.n_shots) < 2:
        raise ValueError(
            f"a {kind} head tells labels apart, and there are cells of one alone; label some of "
            "another, or take --head prototype"
        )
    if not RECIPES[kind].reads_texts and not shots.n_shots.all():
        without = shots.keys[int(np.argmin(shots.n_shots))]
        raise ValueError(
            f"a {kind} head learns from cells alone, and {without} has none; leave it out, or take a "
            "head that reads texts, such as linear or lora"
        )


@dataclass(frozen=True)
class _Tuning:
    """What all trainings of a head share."""

    model: LangCell
    labels: LabelTexts
    recipe: TuningRecipe
    seed: int
    progress: "_Progress"

    def run(
        self, shots: LabelledCells, n_epochs: int, held_out: LabelledCells | None = None
    ) -> TuningRun:
        # Adapters begin at random and dropout goes on so; no one else's random state is touched.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            tuned = TunedModel(self.model, self.labels, self.recipe)
            run = TuningRun(
                tuned,
                shots,
                self.recipe,
                seed=self.seed,
                held_out=held_out,
                count=self.progress.count,
            )
            run.fit(n_epochs)
        self.progress.finish_run()
        return run


class _Progress:
    """Counts cells over all trainings, of which early ends leave some out."""

    def __init__(
        self, shots: LabelledCells, n_folds: int, recipe: TuningRecipe, progress: Progress | None
    ) -> None:
        self._per_run = max(len(shots), recipe.batch_size) * recipe.epochs
        self._n_left = n_folds + 1
        self._n_done = self._n_before = 0  # cells, and those of trainings that have ended
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
    """Return after how many epochs the loss on all cells held out was least.

    >>> _choose_epochs([[3.0, 1.0, 2.0], [3.0, 2.0]], [5, 5], RECIPES["lora"])
    1
    """
    if recipe.patience is None:
        return recipe.epochs
    if not curves:
        return recipe.unjudged_epochs or 0
    # A fold that ended early had its least loss before: the others wait for it no longer.
    shared = min(map(len, curves))
    means = np.average([curve[:shared] for curve in curves], axis=0, weights=sizes)
    return int(np.argmin(means))
