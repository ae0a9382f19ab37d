"""Cells and words in one space: counts, tokens, encoders and the model that joins them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langcell.version import __version__ as __version__

if TYPE_CHECKING:
    from langcell.checkpoint import list_bundled_models as list_bundled_models
    from langcell.config import LangCellConfig as LangCellConfig
    from langcell.label_embeddings import LabelEmbeddings as LabelEmbeddings
    from langcell.model import LangCell as LangCell

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "LabelEmbeddings": "langcell.label_embeddings",
    "LangCell": "langcell.model",
    "LangCellConfig": "langcell.config",
    "list_bundled_models": "langcell.checkpoint",
}
__all__ = ["LabelEmbeddings", "LangCell", "LangCellConfig", "__version__", "list_bundled_models"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'langcell' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
