"""Naming cells with no labels or a few."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeroshot.annotations import Annotations as Annotations
    from zeroshot.annotator import AnnotateOptions as AnnotateOptions
    from zeroshot.annotator import annotate as annotate
    from zeroshot.candidates import CandidateSet as CandidateSet
    from zeroshot.candidates import all_candidates as all_candidates
    from zeroshot.candidates import own_candidates as own_candidates
    from zeroshot.cell_search import SearchOptions as SearchOptions
    from zeroshot.cell_search import SearchResult as SearchResult
    from zeroshot.cell_search import search as search
    from zeroshot.evidence import ExplainOptions as ExplainOptions
    from zeroshot.evidence import explain as explain
    from zeroshot.index import LabelIndex as LabelIndex
    from zeroshot.scores import Scores as Scores

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "AnnotateOptions": "zeroshot.annotator",
    "Annotations": "zeroshot.annotations",
    "CandidateSet": "zeroshot.candidates",
    "ExplainOptions": "zeroshot.evidence",
    "LabelIndex": "zeroshot.index",
    "Scores": "zeroshot.scores",
    "SearchOptions": "zeroshot.cell_search",
    "SearchResult": "zeroshot.cell_search",
    "all_candidates": "zeroshot.candidates",
    "annotate": "zeroshot.annotator",
    "explain": "zeroshot.evidence",
    "own_candidates": "zeroshot.candidates",
    "search": "zeroshot.cell_search",
}
__all__ = [
    "AnnotateOptions",
    "Annotations",
    "CandidateSet",
    "ExplainOptions",
    "LabelIndex",
    "Scores",
    "SearchOptions",
    "SearchResult",
    "all_candidates",
    "annotate",
    "explain",
    "own_candidates",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zeroshot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
