"""Accuracy of second calls at a confidence threshold: `python -m benchmarks.accuracy.second_calls`.

Each validation file is annotated among all cell types and called again: after smoothing over
neighbours, by clusters, and by clusters after smoothing, as in `langcell zeroshot`. `called` is the
share of the labelled cells that are not unknown, `right` the share of calls that are the label or an
ancestor, `depth` their mean depth in the ontology. Files of a study are averaged first. The
calibration was fitted on these studies: the question is whether second calls are as accurate as those
of single cells at the same threshold.
"""

import json
import warnings
from dataclasses import asdict

import anndata
import pandas as pd

from benchmarks.data.arguments import add_model, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from ontology.graph import Ontology
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.decide.decoding import decode
from zeroshot.decide.options import AUTO, STRENGTH, DecodeOptions
from zeroshot.labels.agreement import Truth, compare_calls

FIGURES = ("call_coverage", "call_accuracy", "call_depth")
WAYS: dict[str, tuple[DecodeOptions | None, str]] = {
    "single cells": (None, "langcell_ontology_term_id"),
    "smoothed": (DecodeOptions(smooth=STRENGTH), "langcell_smooth_ontology_term_id"),
    "clusters": (DecodeOptions(cluster_key=AUTO), "langcell_cluster_ontology_term_id"),
    "both": (
        DecodeOptions(smooth=STRENGTH, cluster_key=AUTO),
        "langcell_cluster_ontology_term_id",
    ),
}


def score_file(
    file: LabelledFile, *, model: str, level: float, ontology: Ontology
) -> list[dict[str, str | float]]:
    """Annotate a file, make each kind of second call, and score the calls of its labelled cells."""
    adata = anndata.read_h5ad(file.path)
    annotate(adata, model=model, options=AnnotateOptions(allow_normalized=True, confidence=level))
    rows: list[dict[str, str | float]] = []
    for way, (decoding, column) in WAYS.items():
        if decoding is not None:
            decode(adata, decoding)
        called = adata.obs[column].astype(str).to_numpy(dtype=object)[file.is_labelled]
        found = compare_calls(Truth(term_ids=file.truth_ids, unresolved={}), called, ontology)
        rows.append({"way": way, "study": file.study, **asdict(found)})
    return rows


def print_table(scored: pd.DataFrame) -> None:
    """Print the mean over studies, and the study with the lowest accuracy."""
    print(f"{'':<14}{'called':>8}{'right':>8}{'depth':>8}   least right")
    for way in WAYS:
        studies = scored[scored.way == way].set_index("study")
        mean, worst = studies[list(FIGURES)].mean(), studies.call_accuracy.idxmin()
        print(
            f"{way:<14}{mean.call_coverage:>8.3f}{mean.call_accuracy:>8.3f}{mean.call_depth:>8.2f}"
            f"   {studies.call_accuracy[worst]:.3f} {worst}"
        )


def main() -> None:
    """Print a table and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--confidence", type=float, default=AnnotateOptions.confidence)
    given = parse(parser)
    files = validation_files(given)
    ontology = Ontology.bundled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # low coverage of small gene panels
        rows = [
            row
            for file in files
            for row in score_file(
                file, model=given.model, level=given.confidence, ontology=ontology
            )
        ]
    scored = pd.DataFrame(rows).groupby(["way", "study"])[list(FIGURES)].mean().reset_index()
    print(f"{given.model}, all cell types, confidence {given.confidence:g}, {len(files)} files")
    print_table(scored)
    record = {"benchmark": "second_calls", "model": given.model, "confidence": given.confidence}
    print(json.dumps({**record, "studies": scored.round(4).to_dict("records")}))


if __name__ == "__main__":
    main()
