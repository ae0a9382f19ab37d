"""One run of `langcell annotate`: annotate a file, say how it went, score it where asked."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.progress import cell_progress
from ontology.graph import Ontology
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.official_scoring import OFFICIAL
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.lower_levels import lower_threshold_hint
from zeroshot.decide.options import AUTO, DecodeOptions
from zeroshot.labels.candidates import read_labels
from zeroshot.results.annotations import Annotations, Slots

if TYPE_CHECKING:
    import pandas as pd

    from zeroshot.labels.agreement import Truth

_TYPES_SHOWN = 15
_CALLS_SHOWN = 5  # of each label in the confusion table
_FILE_WIDTH = 120
_FAILED_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class AnnotationRun:
    """What the command line asks for; fields as its options."""

    source: Path
    out: Path | None  # None: into the source itself
    model: str = "mini-fast"
    labels: str | None = None
    truth: str | None = None
    report: Path | None = None
    options: AnnotateOptions = field(default_factory=AnnotateOptions)
    decoding: DecodeOptions = field(default_factory=DecodeOptions)


def run_annotations(runs: Sequence[AnnotationRun]) -> None:
    """Do one run after the other; one that fails does not keep the rest from being done.

    Raises
    ------
    ValueError, OSError
        Of a single run as it comes; of several, that says which failed.
    """
    if len(runs) == 1:
        run_annotation(runs[0])
        return
    first = runs[0]
    model = load_embedder(
        first.model, device=first.options.device, states=first.options.needs_states
    )
    failed = []
    for number, run in enumerate(runs, 1):
        print(f"\n{run.source} ({number} of {len(runs)})", file=sys.stderr, flush=True)
        try:
            run_annotation(run, model=model)
        except (ValueError, KeyError, OSError, ImportError) as error:
            print(f"langcell: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            failed.append(str(run.source))
    if failed:
        some = ", ".join(failed[:_FAILED_SHOWN]) + (" ..." if failed[_FAILED_SHOWN:] else "")
        rest = "; the rest are done" if len(failed) < len(runs) else ""
        raise ValueError(f"{len(failed)} of {len(runs)} inputs failed: {some}{rest}")


def run_annotation(run: AnnotationRun, *, model: "Embedder | None" = None) -> Annotations:
    """Annotate, show a summary on stderr, and print scores and the output's path on stdout.

    Parameters
    ----------
    run: what is asked for
    model: the one that the run names, where it is loaded already
    """
    labels = read_labels(run.labels) if run.labels is not None else None
    _check_report(run)
    with cell_progress("annotating") as progress:
        truth = _read_truth(run)
        if run.decoding.decoders:
            _check_decoding(run)
        annotations = annotate(
            run.source,
            model=model or run.model,
            model_name=run.model,
            labels=labels,
            out=run.out,
            options=run.options,
            progress=progress,
        )
    # What is no terminal has no width of its own, and names of cell types are long.
    width = None if sys.stderr.isatty() else _FILE_WIDTH
    # Names may hold brackets and colons, which are no markup and no emoji.
    console = Console(stderr=True, width=width, markup=False, emoji=False)
    console.print(summary_table(annotations))
    if run.decoding.decoders:
        from zeroshot.decide.changes_table import decoding_table
        from zeroshot.decide.decoding import decode

        console.print(decoding_table(decode(run.out or run.source, run.decoding, overwrite=True)))
    if truth is not None:
        print(agreement_text(truth, annotations, Ontology.bundled()))
    print(f"wrote\t{run.out or run.source}")
    if run.report is not None:
        _write_report(run, run.report)
    return annotations


def _check_decoding(run: AnnotationRun) -> None:
    """Refuse decoders that the input does not allow."""
    from zeroshot.decide.decoding import check_decoding

    check_decoding(run.source, run.decoding)
    if run.report is not None and (key := run.decoding.cluster_key) not in (None, AUTO):
        from langcell.counts.obs_columns import read_obs_column
        from zeroshot.results.called_cells import check_groups

        check_groups(len(set(read_obs_column(run.source, str(key)))), str(key))


def _check_report(run: AnnotationRun) -> None:
    """Refuse, before any work, a report that cannot be written."""
    if run.report is None:
        return
    from langcell.runtime.output_file import check_output

    check_output(run.report, suffixes=(".html",), overwrite=run.options.overwrite)


def _write_report(run: AnnotationRun, target: Path) -> None:
    from zeroshot.report.report import ReportOptions, write_report

    # Clusters that were made are small ones: the report takes them where they are few.
    has_clusters = run.decoding.cluster_key not in (None, AUTO)
    options = ReportOptions(
        key_added=run.options.key_added,
        cluster_key=Slots(key=run.options.key_added).cluster if has_clusters else None,
        truth=run.truth,
        overwrite=run.options.overwrite,
    )
    with cell_progress("reporting") as progress:
        source, head = run.out or run.source, run.options.head
        write_report(source, target, head=head, options=options, progress=progress)
    print(f"wrote\t{target}")


def _read_truth(run: AnnotationRun) -> "Truth | None":
    if run.truth is None:
        return None
    from langcell.counts.obs_columns import read_obs_column
    from zeroshot.labels.agreement import named_truth
    from zeroshot.labels.comparison import label_spellings

    head, ontology = run.options.head, Ontology.bundled()
    spellings = label_spellings(head.keys, ontology) if head is not None else None
    return named_truth(read_obs_column(run.source, run.truth), run.truth, ontology, spellings)


def summary_table(annotations: Annotations) -> Table:
    """Return counts source, gene coverage, speed and calls per type as a table for the screen."""
    details, coverage = annotations.details, annotations.coverage
    n_cells = len(annotations.best)
    table = Table(show_header=False, box=None, pad_edge=False)
    source = details["counts_source"]
    if details["counts_transform"] != "none":
        source += f" (normalised values, made linear by {details['counts_transform']})"
    table.add_row("counts", source)
    table.add_row(
        "genes",
        f"{coverage.share_coding_resolved:.0%} of the protein-coding genes resolve; "
        f"{coverage.median_known_genes:,.0f} known genes expressed in the median cell",
    )
    n_new = n_cells - annotations.n_resumed
    rate = n_new / max(annotations.seconds, 1e-9)
    before = (
        f"{annotations.n_resumed:,} by an interrupted run and " if annotations.n_resumed else ""
    )
    took = f"{before}{n_new:,} in {annotations.seconds:.1f} s ({rate:,.0f} cells/s)"
    table.add_row("cells", took)
    table.add_row(
        "labels",
        f"{len(annotations.candidates):,} ({annotations.candidates.described}, "
        f"Cell Ontology {details['ontology_release']})",
    )
    called = annotations.calls.terms >= 0
    table.add_row("confidence", confidence_words(annotations))
    table.add_row(
        "unknown",
        f"{n_cells - called.sum():,} cells ({1 - called.mean():.1%}) where no term is that sure",
    )
    level = details["parameters"]["confidence"]
    if finer := lower_threshold_hint(annotations.calls.leaf_confidence, level):
        table.add_row("finer calls", finer)
    tissue = annotations.candidates.tissue
    for line in tissue.summary(annotations.candidates.names) if tissue else ():
        table.add_row("tissue", line)
    calls = annotations.calls_per_type()
    for row, (name, term_id, n) in enumerate(calls[:_TYPES_SHOWN]):
        label = f"{name} ({term_id})" if term_id else name
        table.add_row("calls" if not row else "", f"{n:>8,}  {n / n_cells:>6.1%}  {label}")
    if rest := calls[_TYPES_SHOWN:]:
        n = sum(n for _, _, n in rest)
        table.add_row("", f"{n:>8,}  {n / n_cells:>6.1%}  {len(rest)} more types")
    return table


def confidence_words(annotations: Annotations) -> str:
    """Say what the confidence of these calls means."""
    level = annotations.details["parameters"]["confidence"]
    calibration = annotations.details["calibration"]
    parameters = annotations.details["parameters"]
    if parameters["scoring"] == OFFICIAL:
        return (
            f"uncalibrated: the paper's score among the labels at alpha {parameters['alpha']:g}; a "
            f"call has at least {level:g} of it, the best label of each cell is the leaf_label"
        )
    if calibration["id"] == "uncalibrated":
        return f"uncalibrated: probability among the labels; a call has at least {level:g} of it"
    if "head" in annotations.details and calibration["learnt_for"] == "model":
        return (
            f"calibrated ({calibration['id']}) for the model without the head, and not for this head, "
            f"so take it as rough; each call has at least {level:g}"
        )
    beside = [
        *(["--tissue"] if annotations.candidates.tissue else []),
        *(["--rerank"] if parameters["rerank"] else []),
    ]
    rough = f"; calibrated without {' and '.join(beside)}, so take it as rough" if beside else ""
    return (
        f"calibrated ({calibration['id']}): the share of such calls that are right or an ancestor "
        f"of the truth; each call has at least {level:g}{rough}"
    )


def agreement_text(truth: "Truth", annotations: Annotations, ontology: Ontology) -> str:
    """Return scores, what could not be scored, and the confusion table, tab-separated."""
    from zeroshot.labels.agreement import compare, compare_calls, confusion

    judged = truth.only(truth.comparable(annotations.keys, ontology))
    left_out = _left_out_lines(truth, judged, annotations, ontology)
    if not judged.n_scored:
        return "\n".join(["n_cells\t0", *left_out, ""])
    agreement = compare(judged, annotations.keys, ontology)
    called = compare_calls(judged, annotations.label_keys, ontology)
    lines = [
        f"{name}\t{_number(value)}"
        for part in (agreement, called)
        for name, value in asdict(part).items()
    ]
    lines.extend(left_out)
    table = confusion(judged, annotations.names, ontology)
    return "\n".join([*lines, "", "cells\tshare\tlabel\tcalled", *_confusion_lines(table), ""])


def _left_out_lines(
    truth: "Truth", judged: "Truth", annotations: Annotations, ontology: Ontology
) -> Iterator[str]:
    """Say which cells and calls no figure is of, and why."""
    if n_cells := truth.n_scored - judged.n_scored:
        yield (
            f"not scored\t{n_cells} cells called by words of your own: labelled a cell type, which "
            "cannot say whether words are right"
        )
    keys = annotations.label_keys
    made = (judged.term_ids != "") & (keys != "")
    if n_cells := int(np.sum(made & ~judged.comparable(keys, ontology))):
        yield (
            f"not scored\t{n_cells} cells with a call broader than the head's labels: labelled by "
            "words of your own, which cannot say whether it is right (their best single label is scored)"
        )
    is_of = "no one cell type" + (", and no label of the head" if truth.head_keys else "")
    for label, n_cells in sorted(truth.unresolved.items(), key=lambda item: (-item[1], item[0])):
        yield f"not scored\t{n_cells} cells labelled {label!r}: {is_of}"


def _number(value: float | int) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "none: no type has cells enough"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _confusion_lines(table: "pd.DataFrame") -> Iterator[str]:
    """Yield the largest entries of each row: a line each, as names are too long for columns."""
    for label, row in table.iterrows():
        calls = row[row > 0].sort_values(ascending=False, kind="stable")
        for called, n_cells in calls[:_CALLS_SHOWN].items():
            yield f"{n_cells}\t{n_cells / row.sum():.1%}\t{label}\t{called}"
        if rest := len(calls[_CALLS_SHOWN:]):
            n_cells = calls[_CALLS_SHOWN:].sum()
            yield f"{n_cells}\t{n_cells / row.sum():.1%}\t{label}\t{rest} other types"
