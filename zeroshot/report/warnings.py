"""Warnings of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langcell.runtime.parameter_names import option
from langcell.tokens.tokenizer import GENES_WARNING, SHARE_WARNING
from zeroshot.confidence.lower_levels import lower_threshold_hint
from zeroshot.report.agreement import LabelAgreement
from zeroshot.report.groups import Group
from zeroshot.report.verdicts import Trust
from zeroshot.results.called_cells import ABSTAINED, FEW_CELLS, CalledCells

_MANY_UNKNOWN = 0.3
_MANY_UNUSUAL = 0.1
_MANY_VAGUE = 0.2
_MANY_DIFFERENT = 0.3


@dataclass(frozen=True, kw_only=True)
class Note:
    """A warning: the problem, and what it means for the calls."""

    title: str
    text: str


def notes(
    cells: CalledCells,
    groups: Sequence[Group],
    ratings: Sequence[Trust],
    unusual: np.ndarray,
    agreement: LabelAgreement | None,
) -> list[Note]:
    """Return the warnings of a report, those about the input first."""
    found = [
        *_of_input(cells),
        *_of_calls(cells, groups, ratings, unusual),
        *_of_groups(groups, ratings),
    ]
    if agreement is not None and agreement.share_different > _MANY_DIFFERENT:
        found.append(
            Note(
                title="Many calls contradict the labels in the file",
                text=f"{agreement.share_different:.0%} of the labelled cells are called a type that is "
                f"neither broader nor finer than obs[{agreement.key!r}]. One of the two is wrong; see "
                "the agreement below.",
            )
        )
    return found


def _of_input(cells: CalledCells) -> list[Note]:
    found = []
    coverage = cells.details.get("gene_coverage", {})
    share = coverage.get("share_coding_resolved", 1.0)
    n_genes = coverage.get("median_known_genes", GENES_WARNING)
    if share < SHARE_WARNING or n_genes < GENES_WARNING:
        found.append(
            Note(
                title="Low gene coverage",
                text=f"{share:.0%} of the protein-coding genes were recognised, and the median cell "
                f"expresses {n_genes:,.0f} of the model's genes. Few genes are not enough to tell "
                "similar types apart.",
            )
        )
    if cells.details.get("counts_transform", "none") != "none":
        found.append(
            Note(
                title="Normalised values instead of counts",
                text="The file has normalised values, which were converted back to linear. Raw counts "
                f"are better: if you have them, pass their layer ({option('layer')}).",
            )
        )
    if "tissue" in cells.details:
        found.append(
            Note(
                title="The tissue was given",
                text="Types that are not known from the tissue have less weight or were left out; they "
                "are listed below. Cells from another tissue, in a metastasis or as contamination, "
                "can be missed. Confidence was calibrated without tissues, so it is less accurate.",
            )
        )
    if cells.details.get("parameters", {}).get("rerank", 0):
        found.append(
            Note(
                title="Calls were reranked",
                text="The matching head reranked the best candidates of each cell. Confidence was "
                "calibrated without it, so it is less accurate.",
            )
        )
    if "head" in cells.details and cells.calibration.get("learnt_for") == "model":
        found.append(
            Note(
                title="Confidence was calibrated without the head",
                text="There were too few labelled cells to calibrate the head: the calibration is that "
                "of the model without the head, so confidence is less accurate.",
            )
        )
    if cells.details.get("candidates") == "given":
        found.append(
            Note(
                title="The candidates were given",
                text=f"Only {len(cells.details['candidate_names'])} types could be called. A cell of "
                "another type is called the most similar of them, or unknown.",
            )
        )
    return found


def _of_calls(
    cells: CalledCells,
    groups: Sequence[Group],
    ratings: Sequence[Trust],
    unusual: np.ndarray,
) -> list[Note]:
    found = []
    if not cells.has_confidence:
        found.append(
            Note(
                title="Confidence is not calibrated",
                text="The file has no calibrated confidence. The report shows the margin of the best "
                "candidate over the runner-up instead: it ranks calls, but does not say how often they "
                "are right. No call backs off to a broader type.",
            )
        )
    elif not cells.calibration:
        has_head = "head" in cells.details
        remedy = (
            "Fit the head to more labelled cells to calibrate it."
            if has_head
            else "Calibrate it on labelled cells with langcell annotate calibrate."
        )
        found.append(
            Note(
                title="Confidence is not calibrated",
                text=f"The {'head' if has_head else 'model'} came without a calibration: confidence is "
                f"its probability, and models tend to be overconfident. {remedy}",
            )
        )
    share_unknown = float(np.mean(cells.status == ABSTAINED))
    if share_unknown > _MANY_UNKNOWN:
        found.append(
            Note(
                title="Many cells are unknown",
                text=f"{share_unknown:.0%} of the cells have no call. The tissue may be unlike the "
                "training data, or the sequencing depth too low.",
            )
        )
    share_vague = sum(
        group.n_cells
        for group, trust in zip(groups, ratings, strict=True)
        if trust.rating == "vague"
    ) / len(cells)
    if share_vague > _MANY_VAGUE:
        finer = lower_threshold_hint(cells.leaf_confidence, cells.threshold)
        found.append(
            Note(
                title="Many calls are too broad",
                text=f"{share_vague:.0%} of the cells are called a type so broad that it includes "
                f"several others. A list of the types that you expect ({option('labels')}), or a lower "
                f"confidence threshold ({option('confidence')}), gives finer calls{': ' if finer else ''}{finer}.",
            )
        )
    share_unusual = float(np.mean(unusual))
    if share_unusual > _MANY_UNUSUAL:
        found.append(
            Note(
                title=f"Many cells are unlike {cells.reference}",
                text=f"{share_unusual:.0%} of the cells have a high out-of-distribution score. They "
                f"may be empty droplets, or of a type that {cells.reference} lack. The score hardly "
                "detects doublets.",
            )
        )
    return found


def _of_groups(groups: Sequence[Group], ratings: Sequence[Trust]) -> list[Note]:
    found = []
    split = [
        group.name if group.name == group.call else f"cluster {group.name}"
        for group, trust in zip(groups, ratings, strict=True)
        if any(reason.startswith("split") for reason in trust.reasons)
    ]
    if split:
        found.append(
            Note(
                title="Clusters with split calls",
                text=f"In {_some(split)} many cells have an unrelated call: the cluster may have two "
                "populations or doublets, or the model is uncertain.",
            )
        )
    rare = [
        group.name for group in groups if group.n_cells < FEW_CELLS and group.name == group.call
    ]
    if len(rare) > 2:
        found.append(
            Note(
                title="Types with very few cells",
                text=f"{len(rare)} types were called in fewer than {FEW_CELLS} cells each. Unless you "
                "expect them, treat them as wrong calls.",
            )
        )
    return found


def _some(names: Sequence[str], n: int = 8) -> str:
    shown = ", ".join(names[:n])
    return shown if len(names) <= n else f"{shown} and {len(names) - n} more"
