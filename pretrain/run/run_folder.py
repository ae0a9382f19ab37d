"""The output folder of a run: its files, and whether a run can start or resume there."""

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
# Recipe keys that may change when a run is resumed.
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
    """Tell whether the folder holds a run to resume; False if a new one starts.

    A run that stopped before its first checkpoint starts over.

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
            f"{output} holds a run already; resume it (--resume auto, in Python resume=True), or set "
            "another output"
        )
    if not has_state:
        raise FileExistsError(
            f"{output} holds a run without {LAST}, so it cannot be resumed; set another output"
        )
    _check_recipe(recipe, output)
    return True


def is_finished(output: Path) -> bool:
    """Tell whether the run in a folder has finished."""
    return (output / CARD).is_file() and (output / "best").is_dir()


def begin_run(recipe: Recipe, output: Path, data_sha256: str) -> None:
    """Create the folder of a run, with its recipe and the hash of its data."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write output {output}: {error.strerror}") from error
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    for name, content in ((_RECIPE, text), (_DATA, data_sha256 + "\n")):
        with replaced_file(output / name) as part:
            part.write_text(content, encoding="utf-8")


def write_genes(vocabulary: GeneVocabulary, output: Path) -> None:
    """Write the genes of a run, for when it is resumed."""
    vocabulary.write(output / _GENES)


def read_genes(output: Path) -> GeneVocabulary:
    """Read the genes of a run that is resumed.

    Raises
    ------
    ValueError
        If the file is missing or damaged.
    """
    try:
        return GeneVocabulary.read(output / _GENES)
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(_damaged(output / _GENES, str(error))) from error


def check_state(output: Path, data_sha256: str) -> None:
    """Check that a run can be resumed: its checkpoint is whole and its data are unchanged.

    Raises
    ------
    ValueError
        If the checkpoint is damaged or the data have changed; the message names the file.
    """
    for stale in output.glob(f".{LAST}.*.tmp"):  # left by a save that was killed
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
            f"the training data of the run in {output} have changed: restore the files that it was "
            "started with, or set another output"
        )


def _check_recipe(recipe: Recipe, output: Path) -> None:
    path, present = output / _RECIPE, recipe.model_dump(mode="json")
    try:
        earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if not isinstance(earlier, dict):
        raise ValueError(_damaged(path, "it is not a recipe"))
    strategies = [each.get("compute", {}).get("strategy", "ddp") for each in (earlier, present)]
    differences = [
        _difference(key, earlier.get(key), present[key])
        for key in present
        if key not in _FREE and present[key] != earlier.get(key)
    ]
    if strategies[0] != strategies[1]:  # the optimiser state is grouped differently
        differences.append(_difference("compute.strategy", *strategies))
    if differences:
        raise ValueError(
            f"the run in {output} was started with {differences[0]}; resume with its own recipe "
            f"({path}), or set another output"
        )


def _difference(key: str, earlier: Any, now: Any) -> str:
    """Describe the first value that differs, by its dotted key."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        name = next(name for name in now if now[name] != earlier.get(name))
        return _difference(f"{key}.{name}", earlier.get(name), now[name])
    return f"another {key}: {earlier}, not {now}"


def _damaged(path: Path, why: str) -> str:
    return f"{path} is missing or damaged ({why}): restore it from a copy, or set another output"
