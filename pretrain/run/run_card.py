"""Run card: how a model was trained, written as JSON beside its weights."""

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from langcell.runtime.digest import sha256_of
from langcell.runtime.output_file import replaced_file
from langcell.runtime.version import __version__
from langcell.tokens.token_corpus import MANIFEST
from pretrain.recipe.config import Compute, Recipe
from pretrain.recipe.sources import find_sources

FILE = "run.json"
_PACKAGES = ("torch", "lightning", "transformers", "numpy", "anndata")


def run_card(
    recipe: Recipe, compute: Compute, *, data_sha256: str, results: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a finished run.

    Parameters
    ----------
    recipe
        Recipe of the run.
    compute
        Compute settings, with "auto" resolved.
    data_sha256
        From `data_digest`, at the start of the run.
    results
        Results by name (`RunCallback.results`).
    """
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "recipe": recipe.model_dump(mode="json"),
        "data_sha256": data_sha256,
        "compute": {
            **compute.model_dump(mode="json"),
            "device": _device(compute),
            "threads": torch.get_num_threads(),
        },
        "versions": {
            "langcell": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        **results,
    }


def data_digest(recipe: Recipe) -> str:
    """Return one SHA-256 over the names and contents of all training files, in order.

    For a corpus of shards it is that of the manifest, which holds the checksums of all files.
    """
    if recipe.shards.folder:
        return sha256_of(Path(recipe.shards.folder).expanduser() / MANIFEST)
    found = hashlib.sha256()
    for file in find_sources(recipe):
        found.update(f"{file.path.relative_to(recipe.root)} {sha256_of(file.path)}\n".encode())
    return found.hexdigest()


def write_run_card(card: dict[str, Any], folders: Sequence[Path]) -> None:
    """Write the card into each folder."""
    text = json.dumps(card, indent=1)
    for folder in folders:
        with replaced_file(folder / FILE) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _device(compute: Compute) -> str:
    if compute.accelerator == "cuda":
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()
