"""Cells and words in one space: counts, tokens, encoders and the model that joins them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langcell.version import __version__ as __version__

if TYPE_CHECKING:
    from langcell.checkpoint import list_bundled_models as list_bundled_models
    from langcell.config import LangCellConfig as LangCellConfig
    from langcell.counts import open_counts as open_counts
    from langcell.gene_table import GeneTable as GeneTable
    from langcell.genes import GeneVocabulary as GeneVocabulary
    from langcell.label_embeddings import LabelEmbeddings as LabelEmbeddings
    from langcell.model import LangCell as LangCell
    from langcell.shards import TokenCorpus as TokenCorpus
    from langcell.tokenizer import RankTokenizer as RankTokenizer

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "GeneTable": "langcell.gene_table",
    "GeneVocabulary": "langcell.genes",
    "LabelEmbeddings": "langcell.label_embeddings",
    "LangCell": "langcell.model",
    "LangCellConfig": "langcell.config",
    "RankTokenizer": "langcell.tokenizer",
    "TokenCorpus": "langcell.shards",
    "list_bundled_models": "langcell.checkpoint",
    "open_counts": "langcell.counts",
}
__all__ = [
    "GeneTable",
    "GeneVocabulary",
    "LabelEmbeddings",
    "LangCell",
    "LangCellConfig",
    "RankTokenizer",
    "TokenCorpus",
    "__version__",
    "list_bundled_models",
    "open_counts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'langcell' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
