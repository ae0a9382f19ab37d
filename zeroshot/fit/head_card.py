"""Summarise a fitted head: lines to print, and its model card."""

from collections.abc import Iterator

from langcell.checkpoints.weight_changes import DOWN, UP, WeightChanges
from langcell.runtime.version import __version__
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.fit.fitted_head import FittedHead
from zeroshot.heads.few_shot_head import DONOR, STATE, TYPE, FewShotHead

_LABELS = {TYPE: "labels", STATE: "states of cells", DONOR: "labels of donors"}
_USES = {
    TYPE: "langcell fewshot predict --head FOLDER",
    STATE: "langcell fewshot predict --head FOLDER",
    DONOR: "langcell fewshot donors --head FOLDER --donor-key COLUMN",
}
_SHOWN = 40  # labels listed; the rest are counted


def head_lines(fitted: FittedHead) -> Iterator[str]:
    """Yield the labels and metrics of a head as tab-separated lines."""
    head = fitted.head
    unit = "donor" if head.target == DONOR else "cell"
    n_all = head.n_shots.sum()
    yield f"head\t{head.kind}, {len(head.keys)} {_LABELS[head.target]}, {n_all:,} {unit}s"
    labels = list(zip(fitted.names, head.n_shots, strict=True))
    for name, n_of_label in labels[:_SHOWN]:
        yield f"label\t{n_of_label:,} {unit}{'' if n_of_label == 1 else 's'}\t{name}"
    if rest := len(labels[_SHOWN:]):
        yield f"label\t... and {rest:,} more"
    if head.changes:
        n_bytes = sum(each.nbytes for each in head.changes.values())
        whole = any(not name.endswith((UP, DOWN)) for name in head.changes)
        what = "whole weights" if whole else "low-rank adapters"
        yield f"model\t{what} of {_parts(head.changes)}, {n_bytes / 1e6:,.1f} MB"
    if fitted.as_text:
        more = len(fitted.as_text[_SHOWN:])
        words = "; ".join(fitted.as_text[:_SHOWN]) + (f" ... and {more:,} more" if more else "")
        yield f"as text\t{words}: no matching Cell Ontology term, read as free text"
    if fitted.n_without:
        yield f"without\t{fitted.n_without:,} cells have no label"
    yield from _held_out_lines(fitted)
    if head.target == DONOR:
        yield from donor_confidence_lines(head)
    elif not fitted.is_calibrated:
        yield f"confidence\t{_uncalibrated_words(fitted)}"


def _uncalibrated_words(fitted: FittedHead) -> str:
    """Return a note on the confidence of a head without its own calibration."""
    reason = "the labelled cells are too few, or too hard to tell apart, to calibrate the head"
    if fitted.head.calibration.identifier == UNCALIBRATED.identifier:
        return f"not calibrated: probabilities of the head; {reason}"
    return f"calibrated for the model without a head: {reason}"


def donor_confidence_lines(head: FewShotHead) -> Iterator[str]:
    """Yield a note on the probabilities of a donor head if it is not calibrated."""
    if head.calibration.identifier == UNCALIBRATED.identifier:
        yield "confidence\tnot calibrated: probabilities of the regression, from few donors"


def _held_out_lines(fitted: FittedHead) -> Iterator[str]:
    if not fitted.held_out:
        unit = "donor" if fitted.head.target == DONOR else "cell"
        yield f"held out\tnone: a label has only one {unit}, so the head was not evaluated"
        return
    yield f"held out\t{fitted.held_out}"
    if fitted.head.target != TYPE:
        yield f"accuracy\t{fitted.accuracy:.4f}\t{fitted.majority_accuracy:.4f} majority label"
        yield f"macro_f1\t{fitted.macro_f1:.4f}"
    else:
        yield f"accuracy\t{fitted.accuracy:.4f}\t{fitted.zero_shot_accuracy:.4f} without labels"
        yield f"macro_f1\t{fitted.macro_f1:.4f}\t{fitted.zero_shot_macro_f1:.4f} without labels"
    baselines = {
        "by the majority label": fitted.majority_accuracy,
        "without labels": fitted.zero_shot_accuracy,  # NaN for states and donors
    }
    as_good = [f"{value:.4f} {how}" for how, value in baselines.items() if fitted.accuracy <= value]
    if as_good:
        yield (
            f"warning\tthe head is no better than a baseline: accuracy {fitted.accuracy:.4f}, "
            f"against {' and '.join(as_good)}"
        )


def _parts(changes: WeightChanges) -> str:
    """Return the names of the tuned parts of the model."""
    return " and ".join(sorted({name.partition(".")[0].replace("_", " ") for name in changes}))


def head_card(fitted: FittedHead, *, command: str) -> str:
    """Return the model card of a head, in Markdown.

    Parameters
    ----------
    fitted: fitted head
    command: command that fits it again
    """
    head = fitted.head
    rows = "\n".join(f"    {line}" for line in head_lines(fitted))
    return (
        f"# Few-shot head for langcell\n\n"
        f"A {head.kind} head on the model {head.model} (sha256 {head.model_sha256}), fitted with "
        f"langcell {__version__}. Use it with `{_USES[head.target]}`.\n\n"
        f"{rows}\n\nMade by\n\n    {command}\n"
    )
