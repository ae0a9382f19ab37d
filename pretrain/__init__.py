"""Turning labelled expression data and the Cell Ontology into weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.config import Recipe as Recipe
    from pretrain.corpus_build import build_corpus as build_corpus
    from pretrain.corpus_options import BuildOptions as BuildOptions
    from pretrain.plan import plan as plan
    from pretrain.recipe_file import read_recipe as read_recipe
    from pretrain.training import train as train

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "BuildOptions": "pretrain.corpus_options",
    "Recipe": "pretrain.config",
    "build_corpus": "pretrain.corpus_build",
    "plan": "pretrain.plan",
    "read_recipe": "pretrain.recipe_file",
    "train": "pretrain.training",
}
__all__ = ["BuildOptions", "Recipe", "build_corpus", "plan", "read_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pretrain' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
