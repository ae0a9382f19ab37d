"""Zero-shot annotation of the validation studies: `python -m benchmarks.annotation`.

Each study is annotated twice: with its own cell types as candidates, and with every cell type of
the Cell Ontology. Beside the scores stand chance and the majority class. Models are chosen on these
studies, so the figures are optimistic for the model that was chosen.

Own labels are the distinct Cell Ontology ids of a study; cells without an id (doublets, unknown,
cell lines) are left out. Averages are over studies (the files of one study are averaged first);
intervals are 95 % bootstrap intervals over studies.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from langcell import metrics
from langcell.count_scale import Scale
from langcell.counts import open_counts
from langcell.embed import embed_cells
from langcell.model import LangCell
from langcell.threads import set_threads
from ontology.graph import Ontology
from zeroshot.agreement import read_obs_column
from zeroshot.annotator import AnnotateOptions, CellScorer
from zeroshot.candidates import CandidateSet, all_candidates, own_candidates

_TRUTH = "cell_type_ontology_term_id"
# The corpus calls linear values by their unit.
_SCALES = {"TPM/CPM": "linear", "other": "ranks"}
_SHOWN = {
    "own_accuracy": "own acc",
    "own_macro_f1": "own mF1",
    "own_descendant": "own desc",
    "all_accuracy": "all acc",
    "all_macro_f1": "all mF1",
    "all_descendant": "all desc",
    "all_top5": "all top5",
    "majority": "majority",
    "own_chance": "chance",
}


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """Scores of one file; own_ among the study's types, all_ among all cell types."""

    n_cells: int
    n_types: int
    majority: float
    own_chance: float
    own_accuracy: float
    own_macro_f1: float
    own_macro_f1_all: float
    own_descendant: float
    own_top5: float
    all_chance: float
    all_accuracy: float
    all_macro_f1: float
    all_macro_f1_all: float
    all_descendant: float
    all_hierarchical_f1: float
    all_top5: float
    cells_per_second: float


def evaluate(
    path: Path, scale: Scale, model: LangCell, ontology: Ontology, options: AnnotateOptions
) -> StudyResult:
    """Annotate one labelled file and score the calls."""
    truth_ids = read_obs_column(path, _TRUTH)
    labelled = truth_ids != ""
    sets = {
        "own": own_candidates(sorted(set(truth_ids[labelled])), ontology),
        "all": all_candidates(ontology),
    }
    scorers = {name: CellScorer(model, each, options) for name, each in sets.items()}
    ranked: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    started = time.monotonic()
    with open_counts(path, scale=scale) as matrix:
        states = bool(options.rerank)
        for cells in embed_cells(model, matrix, batch_size=options.batch_size, states=states):
            for name, scorer in scorers.items():
                ranked[name].append(scorer(cells).candidates)
    seconds = time.monotonic() - started
    truth = np.array([ontology.index[term_id] for term_id in truth_ids[labelled]])
    figures: dict[str, float] = {}
    for name, candidates in sets.items():
        rows = _rows(candidates, ontology)[np.concatenate(ranked[name])[labelled]]
        figures |= {f"{name}_{key}": value for key, value in _score(truth, rows, ontology).items()}
        figures[f"{name}_chance"] = 1 / len(candidates)
    wanted = {field.name for field in fields(StudyResult)}
    return StudyResult(
        n_cells=int(labelled.sum()),
        n_types=len(np.unique(truth)),
        majority=metrics.majority_accuracy(truth),
        cells_per_second=len(labelled) / seconds,
        **{key: value for key, value in figures.items() if key in wanted},
    )


def _rows(candidates: CandidateSet, ontology: Ontology) -> np.ndarray:
    """Return the row of each candidate in the closure."""
    return np.array([ontology.index[term_id] for term_id in candidates.ids])


def _score(truth: np.ndarray, ranked: np.ndarray, ontology: Ontology) -> dict[str, float]:
    called = ranked[:, 0]
    root = ontology.index["CL:0000000"]
    return {
        "accuracy": metrics.accuracy(truth, called),
        "macro_f1": metrics.macro_f1(truth, called),
        "macro_f1_all": metrics.macro_f1(truth, called, min_cells=1),
        "descendant": metrics.descendant_accuracy(truth, called, ontology.closure),
        "hierarchical_f1": metrics.hierarchical_f1(truth, called, ontology.closure, root=root).f1,
        "top5": metrics.top_k_accuracy(truth, ranked, k=5),
    }


def average(results: dict[str, list[StudyResult]], *, seed: int = 0) -> dict[str, list[float]]:
    """Return mean and 95 % bootstrap interval over studies of each figure that is shown."""
    rng = np.random.default_rng(seed)
    studies = pd.DataFrame(
        [pd.DataFrame([asdict(file) for file in files]).mean() for files in results.values()]
    )
    draws = rng.integers(0, len(studies), (2000, len(studies)))
    summary = {}
    for name in _SHOWN:
        values = studies[name].to_numpy()
        low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
        summary[name] = [round(float(each), 4) for each in (values.mean(), low, high)]
    return summary


def print_table(results: dict[str, list[StudyResult]], names: dict[str, list[str]]) -> None:
    """Print a line a file and the mean over studies."""
    print(
        f"{'study':<34} {'cells':>6} {'types':>5} " + " ".join(f"{x:>8}" for x in _SHOWN.values())
    )
    for study, files in results.items():
        for name, file in zip(names[study], files, strict=True):
            figures = " ".join(f"{getattr(file, key):>8.3f}" for key in _SHOWN)
            print(f"{name:<34.34} {file.n_cells:>6} {file.n_types:>5} {figures}")
    summary = average(results)
    for row, label in enumerate(("mean over studies", "95 % interval from", "to")):
        figures = " ".join(f"{summary[key][row]:>8.3f}" for key in _SHOWN)
        print(f"{label:<34} {'':>6} {'':>5} {figures}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mini", help="bundled name, folder or hub id")
    parser.add_argument("--rerank", type=int, default=0, help="candidates to rerank; 0: off")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    shared = Path(os.environ.get("LANGCELL_SHARED", "../shared"))
    parser.add_argument("--shared", type=Path, default=shared, help="folder with corpus/")
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    corpus = arguments.shared / "corpus"
    if not (corpus / "manifest.tsv").is_file():
        sys.exit(f"no corpus in {arguments.shared}; name its folder with --shared")
    manifest = pd.read_csv(corpus / "manifest.tsv", sep="\t").query("role == 'validation'")
    model = LangCell.from_pretrained(arguments.model, device=arguments.device)
    options = AnnotateOptions(rerank=arguments.rerank)
    results: dict[str, list[StudyResult]] = defaultdict(list)
    names: dict[str, list[str]] = defaultdict(list)
    for row in manifest.itertuples():
        scale = cast(Scale, _SCALES.get(row.scale, row.scale))
        path = corpus / "validation" / "cells" / f"{row.name}.h5ad"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
            result = evaluate(path, scale, model, Ontology.bundled(), options)
        results[row.study].append(result)
        names[row.study].append(row.name)
    print_table(results, names)
    record = {
        "benchmark": "annotation",
        "model": arguments.model,
        "model_sha256": model.sha256,
        "ontology_release": Ontology.bundled().release,
        "rerank": arguments.rerank,
        "used_for": "model selection",
        "files": {
            name: {key: round(value, 4) for key, value in asdict(file).items()}
            for study, files in results.items()
            for name, file in zip(names[study], files, strict=True)
        },
        "mean": average(results),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
