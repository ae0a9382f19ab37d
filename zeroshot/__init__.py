"""Naming cells with no labels or a few."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeroshot.annotate_options import AnnotateOptions as AnnotateOptions
    from zeroshot.annotations import Annotations as Annotations
    from zeroshot.annotator import annotate as annotate
    from zeroshot.calibration import Calibration as Calibration
    from zeroshot.calibration_fit import calibrate as calibrate
    from zeroshot.candidates import CandidateSet as CandidateSet
    from zeroshot.candidates import all_candidates as all_candidates
    from zeroshot.candidates import own_candidates as own_candidates
    from zeroshot.cell_scores import CellScores as CellScores
    from zeroshot.cell_scores import read_scores as read_scores
    from zeroshot.cell_search import SearchOptions as SearchOptions
    from zeroshot.cell_search import SearchResult as SearchResult
    from zeroshot.cell_search import search as search
    from zeroshot.decode_options import DecodeOptions as DecodeOptions
    from zeroshot.decoders import assign as assign
    from zeroshot.decoders import consensus as consensus
    from zeroshot.decoders import smooth as smooth
    from zeroshot.decoding import decode as decode
    from zeroshot.donor_calls import call_donors as call_donors
    from zeroshot.evidence import ExplainOptions as ExplainOptions
    from zeroshot.evidence import explain as explain
    from zeroshot.few_shot import fit_few_shot as fit_few_shot
    from zeroshot.few_shot_options import FewShotOptions as FewShotOptions
    from zeroshot.fitted_head import FittedHead as FittedHead
    from zeroshot.gene_sets import rank_genes as rank_genes
    from zeroshot.head_file import read_head as read_head
    from zeroshot.head_file import write_head as write_head
    from zeroshot.head_hub import load_head as load_head
    from zeroshot.head_hub import push_head as push_head
    from zeroshot.index import LabelIndex as LabelIndex
    from zeroshot.report import ReportOptions as ReportOptions
    from zeroshot.report import write_report as write_report
    from zeroshot.scores import Scores as Scores
    from zeroshot.shot_head import ShotHead as ShotHead

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "AnnotateOptions": "zeroshot.annotate_options",
    "Annotations": "zeroshot.annotations",
    "Calibration": "zeroshot.calibration",
    "CandidateSet": "zeroshot.candidates",
    "CellScores": "zeroshot.cell_scores",
    "DecodeOptions": "zeroshot.decode_options",
    "ExplainOptions": "zeroshot.evidence",
    "FewShotOptions": "zeroshot.few_shot_options",
    "FittedHead": "zeroshot.fitted_head",
    "LabelIndex": "zeroshot.index",
    "ReportOptions": "zeroshot.report",
    "Scores": "zeroshot.scores",
    "SearchOptions": "zeroshot.cell_search",
    "SearchResult": "zeroshot.cell_search",
    "ShotHead": "zeroshot.shot_head",
    "all_candidates": "zeroshot.candidates",
    "annotate": "zeroshot.annotator",
    "assign": "zeroshot.decoders",
    "calibrate": "zeroshot.calibration_fit",
    "call_donors": "zeroshot.donor_calls",
    "consensus": "zeroshot.decoders",
    "decode": "zeroshot.decoding",
    "explain": "zeroshot.evidence",
    "fit_few_shot": "zeroshot.few_shot",
    "load_head": "zeroshot.head_hub",
    "own_candidates": "zeroshot.candidates",
    "push_head": "zeroshot.head_hub",
    "rank_genes": "zeroshot.gene_sets",
    "read_head": "zeroshot.head_file",
    "read_scores": "zeroshot.cell_scores",
    "search": "zeroshot.cell_search",
    "smooth": "zeroshot.decoders",
    "write_head": "zeroshot.head_file",
    "write_report": "zeroshot.report",
}
__all__ = [
    "AnnotateOptions",
    "Annotations",
    "Calibration",
    "CandidateSet",
    "CellScores",
    "DecodeOptions",
    "ExplainOptions",
    "FewShotOptions",
    "FittedHead",
    "LabelIndex",
    "ReportOptions",
    "Scores",
    "SearchOptions",
    "SearchResult",
    "ShotHead",
    "all_candidates",
    "annotate",
    "assign",
    "calibrate",
    "call_donors",
    "consensus",
    "decode",
    "explain",
    "fit_few_shot",
    "load_head",
    "own_candidates",
    "push_head",
    "rank_genes",
    "read_head",
    "read_scores",
    "search",
    "smooth",
    "write_head",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "plots":  # a module whose functions are named after scanpy's: zeroshot.plots.umap
        return import_module("zeroshot.plots")
    if name not in _HOMES:
        raise AttributeError(f"module 'zeroshot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
