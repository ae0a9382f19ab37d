"""Naming cells with no labels or a few."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeroshot.annotations import Annotations as Annotations
    from zeroshot.annotator import AnnotateOptions as AnnotateOptions
    from zeroshot.annotator import annotate as annotate
    from zeroshot.calibration import Calibration as Calibration
    from zeroshot.calibration_fit import calibrate as calibrate
    from zeroshot.candidates import CandidateSet as CandidateSet
    from zeroshot.candidates import all_candidates as all_candidates
    from zeroshot.candidates import own_candidates as own_candidates
    from zeroshot.index import LabelIndex as LabelIndex
    from zeroshot.scores import Scores as Scores

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "AnnotateOptions": "zeroshot.annotator",
    "Annotations": "zeroshot.annotations",
    "Calibration": "zeroshot.calibration",
    "CandidateSet": "zeroshot.candidates",
    "LabelIndex": "zeroshot.index",
    "Scores": "zeroshot.scores",
    "all_candidates": "zeroshot.candidates",
    "annotate": "zeroshot.annotator",
    "calibrate": "zeroshot.calibration_fit",
    "own_candidates": "zeroshot.candidates",
}
__all__ = [
    "AnnotateOptions",
    "Annotations",
    "Calibration",
    "CandidateSet",
    "LabelIndex",
    "Scores",
    "all_candidates",
    "annotate",
    "calibrate",
    "own_candidates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zeroshot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
