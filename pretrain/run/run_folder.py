"""The folder of a run: what it holds, and whether a run may begin or go on there."""

import zipfile
from pathlib import Path
from typing import Any

import yaml

from langcell.genes.vocabulary import GeneVocabulary
from langcell.runtime.output_file import replaced_file
from pretrain.recipe.config import Recipe
from pretrain.run.run_card import FILE as CARD

LAST = "last.ckpt"
_RECIPE, _GENES, _DATA = "recipe.yaml", "genes.tsv", "data.sha256"
# What may change between the start of a run and its resumption.
_FREE = (
    "corpus_root",
    "output",
    "checkpoint_every",
    "log_every",
    "validation",
    "half",
    "compute",
    "wandb",
)


def check_run(recipe: Recipe, output: Path, *, resume: bool) -> bool:
    """Tell whether the folder holds a run that is to go on; False where one is to begin.

    A run that was stopped before its first checkpoint has left nothing to go on from.

    Raises
    ------
    FileExistsError
        If the folder holds a run and `resume` is not set, or one without its checkpoint.
    ValueError
        If the run was started with another recipe, or its files are damaged.
    """
    has_state = (output / LAST).is_file()
    if not has_state and not any((output / name).exists() for name in (CARD, "best", "last")):
        return False
    if not resume:
        raise FileExistsError(
            f"{output} holds a run already; go on with --resume auto, or give another output="
        )
    if not has_state:
        raise FileExistsError(
            f"{output} holds a run without {LAST}, from which it could go on; give another output="
        )
    _check_recipe(recipe, output)
    return True


def is_finished(output: Path) -> bool:
    """Tell whether the run that a folder holds has come to its end."""
    return (output / CARD).is_file() and (output / "best").is_dir()


def begin_run(recipe: Recipe, output: Path, data_sha256: str) -> None:
    """Make the folder of a run, with its recipe and the hash of its data."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write output {output}: {error.strerror}") from error
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    for name, content in ((_RECIPE, text), (_DATA, data_sha256 + "\n")):
        with replaced_file(output / name) as part:
            part.write_text(content, encoding="utf-8")


def write_genes(vocabulary: GeneVocabulary, output: Path) -> None:
    """Write the genes of a run, so that it goes on with them."""
    vocabulary.write(output / _GENES)


def read_genes(output: Path) -> GeneVocabulary:
    """Read the genes that a run began with.

    Raises
    ------
    ValueError
        If they are not there or damaged.
    """
    try:
        return GeneVocabulary.read(output / _GENES)
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(_damaged(output / _GENES, str(error))) from error


def check_state(output: Path, data_sha256: str) -> None:
    """Raise unless a run can go on: from a whole checkpoint, with the data that it began with.

    Raises
    ------
    ValueError
        Naming what is damaged or has changed.
    """
    for stale in output.glob(f".{LAST}.*.tmp"):  # of a save that was killed
        stale.unlink(missing_ok=True)
    try:
        with zipfile.ZipFile(output / LAST) as file:
            wrong = file.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(_damaged(output / LAST, str(error))) from error
    if wrong is not None:
        raise ValueError(_damaged(output / LAST, f"{wrong} has changed"))
    path = output / _DATA
    if path.is_file() and path.read_text(encoding="utf-8").strip() != data_sha256:
        raise ValueError(
            f"the run in {output} began with other data than there is now: bring back the files that "
            "it was started with, or give another output="
        )


def _check_recipe(recipe: Recipe, output: Path) -> None:
    path, present = output / _RECIPE, recipe.model_dump(mode="json")
    try:
        earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if not isinstance(earlier, dict):
        raise ValueError(_damaged(path, "it holds no recipe"))
    strategies = [each.get("compute", {}).get("strategy", "ddp") for each in (earlier, present)]
    differences = [
        _difference(key, earlier.get(key), present[key])
        for key in present
        if key not in _FREE and present[key] != earlier.get(key)
    ]
    if strategies[0] != strategies[1]:  # the optimiser's state is grouped in another way
        differences.append(_difference("compute.strategy", *strategies))
    if differences:
        raise ValueError(
            f"the run in {output} was started with {differences[0]}; resume with its own recipe "
            f"({path}), or give another output="
        )


def _difference(key: str, earlier: Any, now: Any) -> str:
    """Say which value of a recipe is another one, by its dotted key."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        name = next(name for name in now if now[name] != earlier.get(name))
        return _difference(f"{key}.{name}", earlier.get(name), now[name])
    return f"another {key}: {earlier}, not {now}"


def _damaged(path: Path, why: str) -> str:
    return f"{path} is missing or damaged ({why}): put back a copy of it, or give another output="
