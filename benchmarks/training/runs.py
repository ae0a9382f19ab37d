"""Training runs that benchmarks compare, trained if missing and reused otherwise."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pretrain.recipe.config import Recipe
from pretrain.recipe.recipe_file import find_recipe, read_recipe

RECIPE = "mini-fast-member"
# No study selects a checkpoint: the weights after the last step are compared.
_ALWAYS = ("validation.files=[]",)
_FREE = {"corpus_root", "output"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the recipe with overrides.

    Attributes
    ----------
    folder: folder of the run
    overrides: `key=value`, as on the command line of `langcell pretrain`
    corpus: folder of the corpus
    """

    folder: Path
    overrides: tuple[str, ...]
    corpus: Path

    @property
    def model(self) -> Path:
        """Folder of the model after the last step; it exists once the run is finished."""
        return self.folder / "last"

    @property
    def is_finished(self) -> bool:
        """Tell whether the run has finished."""
        return self.model.is_dir()

    @property
    def recipe(self) -> Recipe:
        """Recipe of the run."""
        return read_recipe(find_recipe(Path(RECIPE)), self._values())

    def train(self) -> None:
        """Train, or resume a run that was stopped; a finished run is left as it is.

        Raises
        ------
        RuntimeError
            If training fails.
        """
        if self.is_finished:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "langcell", "pretrain", "--config", RECIPE]
        # One process per run, for a fresh random state and threads.
        with (self.folder / "train.log").open("a", encoding="utf-8") as log:
            done = subprocess.run(
                [*command, "--resume", "auto", *self._values()], stderr=log, stdout=log, check=False
            )
        if done.returncode:
            raise RuntimeError(f"training failed: see {self.folder / 'train.log'}")

    def check(self) -> None:
        """Check that the run is finished and has this recipe.

        Raises
        ------
        FileNotFoundError
            If the run is missing or not finished.
        ValueError
            If the folder holds a run with another recipe.
        """
        if not self.is_finished:
            raise FileNotFoundError(f"no finished run in {self.folder}; pass --train to train it")
        path = self.folder / "recipe.yaml"
        found = Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        wanted = self.recipe
        for key in Recipe.model_fields.keys() - _FREE:
            if getattr(found, key) != getattr(wanted, key):
                raise ValueError(
                    f"the run in {self.folder} was trained with another {key}; "
                    "pass another folder with --runs"
                )

    def _values(self) -> Sequence[str]:
        where = (f"corpus_root={self.corpus}", f"output={self.folder}")
        return (*_ALWAYS, *self.overrides, *where)
