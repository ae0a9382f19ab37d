"""Accuracy of searches: `python -m benchmarks.accuracy.search --model mini-fast`.

Every validation study is queried for each of its types, and for each absent type of the ontology (not
one of its labels, nor an ancestor or descendant of one). A cell is correct if its label is the term or
a descendant; cells labelled with an ancestor are left out. `decision` is that of `langcell search`:
false discovery rate 0.05 and a minimum of the log-odds; `cosine` is the baseline, a fixed threshold on
the similarity; `FDR alone` has no minimum. Minimum and threshold are chosen on the other studies: the
best mean F1 of present types, with hits for at most 1 %, or 5 %, of the queries for absent types. The
model was selected on these studies. Files of a study are averaged first, then studies.

Retrieval: of the cells of all studies by each distinct text of their types, and of all distinct
descriptions of the ontology by each cell. It needs no threshold.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data.arguments import add_models, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.retrieval import Retrieval, cell_to_text, print_retrieval, text_to_cell
from benchmarks.scoring.search_scores import (
    LEVEL,
    by_threshold,
    choose,
    rankings,
    score_file,
    without_own_study,
)
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.retrieval.background import Background

ANSWERED = (0.01, 0.05)  # maximum shares of absent queries with hits
FLOORS = np.round(np.arange(-8, 3.01, 0.25), 2)
THRESHOLDS = np.round(np.arange(0, 0.9, 0.02), 2)
FIGURES = ("precision", "recall", "f1", "detected", "absent_none", "absent_fpr")


def measure(model: LangCell, files: Sequence[LabelledFile], ontology: Ontology) -> dict[str, Any]:
    """Print the tables of one model and return its scores."""
    background = Background(model, ontology)
    assert model.reference is not None
    null = background.null(model.reference.features.astype(np.float32))
    scored = [score_file(file, model, background, null, ontology) for file in files]
    eligible, cosine = [of.eligible for of in scored], [of.cosine for of in scored]
    floors, alone = by_threshold(scored, eligible, FLOORS), np.array([-1e3])
    thresholds = by_threshold(scored, cosine, THRESHOLDS)
    print(f"{'':<16}{'chosen':>8}" + "".join(f"{name:>13}" for name in FIGURES))
    record: dict[str, Any] = {}
    for answered in ANSWERED:
        for name, figures in (("decision", floors), ("cosine", thresholds)):
            title = f"{name}, {answered:.0%}"
            record[title] = _print_decision(title, figures, answered)
    record["FDR alone"] = _print_decision("FDR alone", by_threshold(scored, eligible, alone), 1.0)
    ranked = rankings(scored).mean()
    print("ranking: " + "  ".join(f"{name} {value:.3f}" for name, value in ranked.items()))
    record["ranking"] = {str(name): round(float(value), 4) for name, value in ranked.items()}
    by_study: dict[str, list[Retrieval]] = {}
    for of in scored:
        by_study.setdefault(of.file.study, []).append(cell_to_text(of, background))
    found = text_to_cell(scored, background, ontology)
    record["text_to_cell"] = print_retrieval("text to cell", [[found]])
    record["cell_to_text"] = print_retrieval("cell to text", list(by_study.values()))
    return record


def _print_decision(title: str, figures: pd.DataFrame, answered: float) -> dict[str, Any]:
    """Print and return the mean over studies, each at the threshold chosen on the others."""
    held_out, chosen = without_own_study(figures, answered), choose(figures, answered)
    mean = held_out.mean()
    shown = "".join(f"{mean[each]:>13.4f}" for each in FIGURES)
    print(f"{title:<16}{chosen:>8.2f}{shown}", flush=True)
    return {
        "chosen_on_all": chosen,
        **{each: round(float(mean[each]), 4) for each in FIGURES},
        "studies": json.loads(held_out.round(4).to_json(orient="index")),
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser)
    return parse(parser)


def main() -> None:
    """Print a table per model, and one JSON line."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    files = validation_files(arguments)
    results, digests = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
        for name in arguments.model or ["mini-fast"]:
            model = LangCell.from_pretrained(name)
            print(f"\n{name}: {len(files)} validation files; thresholds leave the study out")
            results[name] = measure(model, files, ontology)
            digests[name] = model.sha256
    record = {"benchmark": "search", "models": digests, "level": LEVEL}
    print(json.dumps({**record, "figures": results}))


if __name__ == "__main__":
    main()
