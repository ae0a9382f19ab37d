"""Accuracy on types without training cells: `python -m benchmarks.training.unseen --runs FOLDER --train`.

Trains the recipe of one bag of genes without a tenth of the training types, chosen by a hash together
with all their descendants, for three seeds of the hash. Each model then annotates cells of removed
and of kept types. Scores are means over types, or over pairs of study and type; the chance level and
the harmonic mean of removed and kept types are printed too.

Validation studies have few removed types, so cells of the training studies are annotated as well:
those of the removed types, which the run has never seen, and of as many kept types, for which this is
the training accuracy. Nothing is selected on either.

Removed types have no labelled cell in training, but cells with a coarser label ("T cell") may belong
to them; and their names are negatives in the contrast, as those of all types without data.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.data.arguments import make_parser, parse
from benchmarks.data.studies import LabelledFile, read_validation_files
from benchmarks.data.training_cells import read_training_split
from benchmarks.data.unseen_cells import TypeCells, choose_types, draw_type_cells
from benchmarks.scoring.model_scores import candidate_scores, file_features
from benchmarks.scoring.type_scores import FIGURES, score_types
from benchmarks.training.runs import Run
from benchmarks.training.unseen_table import print_groups
from langcell.model.langcell import LangCell
from langcell.nn.metrics import h_score
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from pretrain.cells.memory_corpus import Corpus
from pretrain.recipe.config import Recipe
from pretrain.recipe.holdout import FILE as HOLDOUT
from zeroshot.labels.candidates import all_candidates, own_candidates

SHARE = 0.1
VALIDATION, TRAINING = "validation studies", "training studies"


@dataclass(frozen=True, kw_only=True, eq=False)
class TypeTable:
    """Scores of types in one label space.

    Attributes
    ----------
    cells: studies of the cells
    space: label space
    types: one row per study and type, from `score_types`; index (study, term id)
    """

    cells: str
    space: str
    types: pd.DataFrame


def run_of(seed: int | None, folder: Path, corpus: Path) -> Run:
    """Return the run without the types chosen by a seed, or for None that of the full recipe."""
    own = () if seed is None else (f"holdout.share={SHARE}", f"holdout.seed={seed}")
    name = "full-1" if seed is None else f"unseen-{seed}"
    return Run(
        folder=folder / name,
        overrides=(*own, "seed=1", "optimisation.threads=1"),
        corpus=corpus,
    )


def score_validation(
    model: LangCell, files: Sequence[LabelledFile], ontology: Ontology
) -> list[TypeTable]:
    """Score every type of every validation study, among its own types and among all types."""
    everything = all_candidates(ontology)
    parts: dict[str, list[pd.DataFrame]] = {"own": [], "all": []}
    for file in files:
        features = file_features(model, file)
        own = own_candidates(sorted(set(file.truth_ids)), ontology)
        for space, candidates in (("own", own), ("all", everything)):
            scores = candidate_scores(model, features, candidates)
            found = score_types(file.truth_ids, scores, candidates.ids, ontology)
            parts[space].append(pd.concat({file.study: found}))
    # Files of the same study are averaged first.
    return [
        TypeTable(
            cells=VALIDATION, space=space, types=pd.concat(found).groupby(level=[0, 1]).mean()
        )
        for space, found in parts.items()
    ]


def score_training(model: LangCell, drawn: TypeCells, ontology: Ontology) -> list[TypeTable]:
    """Score drawn cells of training studies, among the drawn types and among all types."""
    features = drawn.features(model)
    choice = own_candidates(sorted(set(drawn.term_ids)), ontology)
    tables = []
    for space, candidates in (("choice", choice), ("all", all_candidates(ontology))):
        scores = candidate_scores(model, features, candidates)
        found = score_types(drawn.term_ids, scores, candidates.ids, ontology)
        tables.append(TypeTable(cells=TRAINING, space=space, types=pd.concat({"drawn": found})))
    return tables


def compare_groups(table: TypeTable, removed: set[str], kept: set[str]) -> pd.Series:
    """Return numbers, mean scores and chance of removed and kept types, and harmonic means."""
    values: dict[str, float] = {}
    term_ids = table.types.index.get_level_values(1)
    for name, group in (("removed", removed), ("kept", kept)):
        of_group = table.types[term_ids.isin(group)]
        values[f"{name}_types"] = of_group.index.get_level_values(1).nunique()
        for figure in FIGURES:
            values[f"{name}_{figure}"] = of_group[figure].mean()
            values[f"{name}_chance_{figure}"] = of_group[f"chance_{figure}"].mean()
    for figure in FIGURES:
        values[f"h_{figure}"] = h_score(values[f"kept_{figure}"], values[f"removed_{figure}"])
    return pd.Series(values)


def score_seed(
    seed: int,
    folder: Path,
    files: Sequence[LabelledFile],
    corpus: Corpus,
    recipe: Recipe,
    ontology: Ontology,
) -> Iterator[dict[str, object]]:
    """Yield the scores of one seed: of the run without its types, and of the full recipe."""
    run = run_of(seed, folder, recipe.root)
    run.check()
    held_out = set(pd.read_csv(run.folder / HOLDOUT, sep="\t")["term_id"])
    trained = set(corpus.term_ids)
    callable_types = trained & set(all_cell_types(ontology))
    removed, kept = choose_types(callable_types & held_out, callable_types - held_out)
    drawn = draw_type_cells(corpus, recipe, removed | kept)
    for name, other in (("without them", run), ("full recipe", run_of(None, folder, recipe.root))):
        if not other.is_finished:
            print(f"no finished run in {other.folder}: left out", file=sys.stderr)
            continue
        model = LangCell.from_pretrained(other.model)
        for table in score_validation(model, files, ontology):
            row = compare_groups(table, held_out, trained - held_out)
            yield {"run": name, "seed": seed, "cells": table.cells, "space": table.space, **row}
        for table in score_training(model, drawn, ontology):
            row = compare_groups(table, removed, kept)
            yield {"run": name, "seed": seed, "cells": table.cells, "space": table.space, **row}


def print_natural(
    model: LangCell, files: Sequence[LabelledFile], trained: set[str], ontology: Ontology
) -> pd.DataFrame:
    """Print and return the scores of the validation types without training data."""
    parts = []
    for table in score_validation(model, files, ontology):
        term_ids = table.types.index.get_level_values(1)
        parts.append(table.types[~term_ids.isin(trained)].assign(space=table.space))
    found = pd.concat(parts)
    print(
        "\ntypes of validation studies that no training file has; full recipe; chance in brackets"
    )
    for (study, term_id), row in found.iterrows():
        shown = "  ".join(
            f"{each} {row[each]:.3f} ({row[f'chance_{each}']:.4f})" for each in FIGURES
        )
        title = f"{term_id} {ontology.terms[term_id].name} ({study})"
        print(f"{title:<62.62} {row.space:<4} {shown}")
    return found


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--train", action="store_true", help="train the missing runs")
    parser.add_argument("--seeds", type=int, default=3, help="draws of removed types; default 3")
    return parse(parser)


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    folder = arguments.shared / "corpus"
    full = run_of(None, arguments.runs, folder)
    warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
    try:
        if arguments.train:
            for run in (full, *(run_of(s, arguments.runs, folder) for s in range(arguments.seeds))):
                run.train()
        full.check()
        files = read_validation_files(folder)
        corpus = read_training_split(full.recipe, ontology)
        figures = pd.DataFrame(
            row
            for seed in range(arguments.seeds)
            for row in score_seed(seed, arguments.runs, files, corpus, full.recipe, ontology)
        )
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    print_groups(figures)
    model = LangCell.from_pretrained(full.model)
    natural = print_natural(model, files, set(corpus.term_ids), ontology)
    record = {
        "benchmark": "unseen",
        "share": SHARE,
        "groups": json.loads(figures.round(4).to_json(orient="records")),
        "natural": json.loads(
            natural.rename_axis(["study", "term_id"])
            .reset_index()
            .round(4)
            .to_json(orient="records")
        ),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
