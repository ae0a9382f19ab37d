"""Test the calibration on independent studies: `python -m benchmarks.training.further_studies`.

Each of eight training studies is annotated by a bag of genes that was trained without it (`--train`
trains the models missing in the folder of `--runs`). Confidence comes from the calibration curve of
the bundled model, which was fitted on the validation studies, the same for all.

A call is correct if it is the truth or an ancestor of it. Authors label some cells coarsely
("lymphocyte"): whether "T cell" is correct for one of them is unknown. Such calls, finer than the
label, count as wrong in `accuracy` and are left out of `decided`.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from benchmarks.data.arguments import add_model, make_parser, parse
from benchmarks.data.studies import LabelledFile, read_labelled_file
from benchmarks.scoring.model_scores import file_features
from benchmarks.training.runs import RECIPE, Run
from langcell.checkpoints.checkpoint import resolve_checkpoint
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from pretrain.recipe.recipe_file import find_recipe, read_recipe
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.backoff import TermsByDepth
from zeroshot.confidence.calibration import FILE, UNCALIBRATED, Calibration
from zeroshot.confidence.reliability import deepest
from zeroshot.fit.fit_calibration import label_terms, score_terms_by_depth
from zeroshot.labels.candidates import all_candidates, own_candidates

LEVEL = 0.9

_CELLS = "train/cells"


@dataclass(frozen=True, kw_only=True)
class FurtherStudy:
    """A training study that is held out of training.

    Attributes
    ----------
    name: name of the study
    cells: its files of cells, to annotate
    without: substrings of the names of all files with its cells or their means
    """

    name: str
    cells: tuple[str, ...]
    without: tuple[str, ...]


# Every training study of at least 100 labelled cells. If several files have cells of the same
# laboratory, or panels of the same tissue that may contain them, all of them are held out.
FURTHER = (
    FurtherStudy(
        name="Zheng 2017",
        cells=("zheng2017_pbmc_facs", "mudan_zheng_sorted2140", "garnett_pbmc_facs800"),
        without=("zheng", "garnett", "PBMC_10x", "statescope_PBMC"),
    ),
    FurtherStudy(name="Moncada 2020", cells=("moncada2020_pdac_card",), without=("moncada", "PDAC")),
    FurtherStudy(
        name="Enge 2017",
        cells=("northstar_cells_Enge_2017_manual_reannotation",),
        without=("Enge_2017", "GSE81547"),
    ),
    FurtherStudy(name="Pollen 2014", cells=("pollen2014",), without=("pollen",)),
    FurtherStudy(name="Puram 2017", cells=("puram2017_hnscc180",), without=("puram",)),
    FurtherStudy(
        name="Sade-Feldman 2018", cells=("sadefeldman2018_melanoma_t550",), without=("sadefeldman",)
    ),
    FurtherStudy(
        name="Tirosh 2016", cells=("tirosh2016_oligodendroglioma184",), without=("tirosh",)
    ),
    FurtherStudy(
        name="TimeCCI colorectal", cells=("colorectal_timecci1105",), without=("colorectal",)
    ),
)  # fmt: skip


def run_without(study: FurtherStudy, folder: Path, corpus: Path) -> Run:
    """Return the run of the recipe without a study."""
    recipe = read_recipe(find_recipe(Path(RECIPE)), (f"corpus_root={corpus}",))
    sources = []
    for source in recipe.sources:
        values = source.model_dump(mode="json")
        values["files"] = [
            name for name in values["files"] if not any(part in name for part in study.without)
        ]
        if values["files"]:
            sources.append(values)
    slug = study.name.lower().replace(" ", "-")
    flow = yaml.safe_dump(sources, default_flow_style=True, width=10**6).strip()
    return Run(
        folder=folder / f"without-{slug}",
        overrides=(f"sources={flow}", "seed=1", "optimisation.threads=1"),
        corpus=corpus,
    )


def read_study(study: FurtherStudy, run: Run) -> list[LabelledFile]:
    """Read the labels of the files of a study."""
    recipe = read_recipe(find_recipe(Path(RECIPE)), (f"corpus_root={run.corpus}",))
    scales = {name: source.scale for source in recipe.sources for name in source.files}
    return [
        read_labelled_file(
            run.corpus / _CELLS / f"{name}.h5ad",
            study=study.name,
            scale=scales[f"{_CELLS}/{name}.h5ad"],
        )
        for name in study.cells
    ]


def is_finer(by_depth: TermsByDepth, truth_ids: np.ndarray, ontology: Ontology) -> np.ndarray:
    """Return which terms are strict descendants of the truth, shape (n_cells, n_depths)."""
    truth = np.array([ontology.index[each] for each in truth_ids], dtype=np.int64)
    rows = np.array([ontology.index.get(each, -1) for each in by_depth.tree.ids], dtype=np.int64)
    terms = np.where(by_depth.terms >= 0, rows[by_depth.terms], -1)
    cells, depths = np.nonzero(terms >= 0)
    finer = np.zeros(terms.shape, dtype=bool)
    below = np.asarray(ontology.closure[terms[cells, depths], truth[cells]]).ravel() > 0
    finer[cells, depths] = below & (terms[cells, depths] != truth[cells])
    return finer


def judge_file(
    model: LangCell, file: LabelledFile, calibration: Calibration, ontology: Ontology
) -> Iterator[dict[str, object]]:
    """Yield the scores of the calls of a file, among all cell types and among its own labels."""
    features = file_features(model, file)
    own = own_candidates(sorted(set(file.truth_ids)), ontology)
    for space, candidates in (("all", all_candidates(ontology)), ("own", own)):
        scorer = CellScorer(model, candidates, AnnotateOptions(calibration=UNCALIBRATED))
        by_depth = score_terms_by_depth(scorer, features)
        labelled = label_terms(by_depth, file.truth_ids, ontology, study=file.study)
        curve = calibration.curve(is_choice=candidates.is_choice)
        depths = np.arange(labelled.probabilities.shape[1])
        sure = np.where(
            labelled.probabilities > 0, curve.confidence(labelled.probabilities, depths), 0.0
        )
        made, deepest_term = deepest(sure, LEVEL)
        cells = np.arange(file.n_cells)
        right = labelled.is_right[cells, deepest_term][made]
        finer = is_finer(by_depth, file.truth_ids, ontology)[cells, deepest_term][made]
        yield {
            "candidates": space,
            "study": file.study,
            "cells": file.n_cells,
            "accuracy": right.mean() if made.any() else np.nan,
            "decided": right[~finer].mean() if (~finer).any() else np.nan,
            "finer": finer.mean() if made.any() else np.nan,
            "coverage": made.mean(),
            "depth": deepest_term[made].mean() if made.any() else np.nan,
        }


def main() -> None:
    """Print a table for each label space, and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--train", action="store_true", help="train the missing models")
    options = parse(parser)
    ontology = Ontology.bundled()
    rows: list[dict[str, object]] = []
    try:
        calibration = Calibration.read(resolve_checkpoint(options.model) / FILE)
        for study in FURTHER:
            run = run_without(study, options.runs, options.shared / "corpus")
            print(f"{study.name}: {run.folder}", file=sys.stderr, flush=True)
            if options.train:
                run.train()
            run.check()
            model = LangCell.from_pretrained(run.model)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # few genes, repeated columns
                for file in read_study(study, run):
                    rows += judge_file(model, file, calibration, ontology)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    print_tables(pd.DataFrame(rows), options.model)


def print_tables(files: pd.DataFrame, model: str) -> None:
    """Print the scores of each study, averaged over its files, and their mean."""
    record = {}
    for space, part in files.groupby("candidates"):
        studies = part.drop(columns="candidates").groupby("study", sort=False)
        table = studies.mean().assign(cells=studies["cells"].sum())
        print(f"\ncalibration of {model}; candidates: {space}; level {LEVEL:g}")
        print(table.to_string(float_format="{:.3f}".format))
        means = table.drop(columns="cells").mean()
        print("mean over studies   " + "  ".join(f"{k} {v:.3f}" for k, v in means.items()))
        lowest = {f"lowest_{name}": table[name].min() for name in ("accuracy", "decided")}
        print("lowest of a study   " + "  ".join(f"{k[7:]} {v:.3f}" for k, v in lowest.items()))
        record[space] = {
            name: round(float(value), 4) for name, value in {**means, **lowest}.items()
        }
    print(json.dumps({"benchmark": "further_studies", "model": model, "level": LEVEL, **record}))


if __name__ == "__main__":
    main()
