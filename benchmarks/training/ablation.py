"""Ablation of the recipe: `python -m benchmarks.training.ablation --runs FOLDER --train`.

Trains the recipe of one bag of genes with one part removed at a time, scores the weights after the
last step on the validation studies, and prints one table: own-label macro-F1 over all types and
accuracy, all-CL accuracy under the descendant rule and top-5, averaged over studies. The full recipe
is trained with several seeds; differences within their spread are not significant. Recipes are chosen
on these studies, so the scores are optimistic.
"""

import argparse
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.data.arguments import make_parser, parse
from benchmarks.data.studies import LabelledFile, read_validation_files
from benchmarks.scoring.model_scores import candidate_scores, file_features
from benchmarks.scoring.scoring import SpaceScore, by_study, score_space
from benchmarks.training.ablation_parts import PARTS, Part
from benchmarks.training.runs import Run
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.labels.candidates import all_candidates, own_candidates

FIGURES = ("own mF1", "own acc", "all desc", "all top5")
_SIMILARITY = "similarity alone at inference"
_DEVIATION = ", sd over seeds"


@dataclass(frozen=True, kw_only=True, eq=False)
class RunScore:
    """Scores of one run.

    Attributes
    ----------
    title: removed part
    seed: seed of the run
    figures: means over studies by `FIGURES`, then own-label macro-F1 of each study
    """

    title: str
    seed: int
    figures: pd.Series


def run_of(part: Part, seed: int, folder: Path, corpus: Path) -> Run:
    """Return the run of a part, trained or not, with one thread for reproducibility."""
    return Run(
        folder=folder / f"{part.key}-{seed}",
        overrides=(*part.values(corpus), f"seed={seed}", "optimisation.threads=1"),
        corpus=corpus,
    )


def score_model(
    model: LangCell, files: Sequence[LabelledFile], ontology: Ontology
) -> tuple[pd.Series, pd.Series]:
    """Return the scores of a model, and those by similarity alone."""
    spaces: dict[str, dict[str, list[SpaceScore]]] = {
        each: defaultdict(list) for each in ("own", "plain", "all", "plain all")
    }
    everything = all_candidates(ontology)
    for file in files:
        features = file_features(model, file)
        own = own_candidates(sorted(set(file.truth_ids)), ontology)
        named = (("own", own), ("plain", own), ("all", everything), ("plain all", everything))
        for space, candidates in named:
            even = not space.startswith("plain")
            scores = candidate_scores(model, features, candidates, even=even)
            found = score_space(file.truth_ids, scores, candidates.ids, ontology)
            spaces[space][file.study].append(found)
    tables = {space: by_study(found) for space, found in spaces.items()}
    as_called = _figures(tables["own"], tables["all"])
    return as_called, _figures(tables["plain"], tables["plain all"])


def _figures(own: pd.DataFrame, everything: pd.DataFrame) -> pd.Series:
    means = [
        own["macro_f1_all"].mean(),
        own["accuracy"].mean(),
        everything["descendant"].mean(),
        everything["top5"].mean(),
    ]
    return pd.concat([pd.Series(means, index=FIGURES), own["macro_f1_all"]])


def summary(scores: Sequence[RunScore]) -> pd.DataFrame:
    """Return one row per part: number of seeds, then the mean of each score over seeds.

    Parts with several seeds get a second row with the standard deviation over seeds.
    """
    by_title: dict[str, list[pd.Series]] = defaultdict(list)
    for score in scores:
        by_title[score.title].append(score.figures)
    rows = {}
    for title, found in by_title.items():
        table = pd.DataFrame(found)
        rows[title] = pd.concat([pd.Series({"seeds": len(table)}), table.mean()])
        if len(table) > 1:
            rows[f"{title}{_DEVIATION}"] = pd.concat(
                [pd.Series({"seeds": len(table)}), table.std(ddof=1)]
            )
    return pd.DataFrame(rows).T


def print_summary(table: pd.DataFrame) -> None:
    """Print the table with means over studies on the left and each study on the right."""
    columns = [each for each in table.columns if each != "seeds"]
    heads = [f"{each:>8.8}" for each in columns]
    print(f"{'taken out':<46} seeds {' '.join(heads[:4])} | {' '.join(heads[4:])}")
    for title, row in table.iterrows():
        cells = [f"{row[each]:8.3f}" for each in columns]
        print(f"{title:<46} {row.seeds:5.0f} {' '.join(cells[:4])} | {' '.join(cells[4:])}")


def score_parts(
    parts: Sequence[Part], seeds: Sequence[int], folder: Path, corpus: Path
) -> Iterator[RunScore]:
    """Score the finished runs of the parts; print which are missing."""
    files = read_validation_files(corpus)
    ontology = Ontology.bundled()
    for part in parts:
        for seed in seeds:
            run = run_of(part, seed, folder, corpus)
            if not run.is_finished:
                print(f"no finished run in {run.folder}", file=sys.stderr)
                continue
            run.check()
            model = LangCell.from_pretrained(run.model)
            figures, plain = score_model(model, files, ontology)
            yield RunScore(title=part.title, seed=seed, figures=figures)
            if part is PARTS[0]:
                yield RunScore(title=_SIMILARITY, seed=seed, figures=plain)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--train", action="store_true", help="train the missing runs")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each part; default 1")
    parser.add_argument("--full-seeds", type=int, default=3, help="runs of the full recipe")
    parser.add_argument("--parts", help="comma-separated: " + ",".join(each.key for each in PARTS))
    return parse(parser)


def choose_parts(given: str | None) -> list[Part]:
    """Return the parts of `--parts`, after the full recipe.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    known = {part.key: part for part in PARTS}
    keys = given.split(",") if given else list(known)
    if unknown := [key for key in keys if key not in known]:
        raise ValueError(f"unknown part {unknown[0]!r}; known: {', '.join(known)}")
    return [PARTS[0], *(known[key] for key in keys if known[key] is not PARTS[0])]


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments()
    corpus = arguments.shared / "corpus"
    try:
        parts = choose_parts(arguments.parts)
        wanted = [(parts[:1], arguments.full_seeds), (parts[1:], arguments.seeds)]
        if arguments.train:
            for some, n_seeds in wanted:
                for part in some:
                    for seed in range(1, n_seeds + 1):
                        run_of(part, seed, arguments.runs, corpus).train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
            scores = [
                score
                for some, n_seeds in wanted
                for score in score_parts(some, range(1, n_seeds + 1), arguments.runs, corpus)
            ]
        if not scores:
            raise FileNotFoundError(
                f"no finished run in {arguments.runs}; pass --train to train it"
            )
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    table = summary(scores)
    print_summary(table)
    runs = [
        {"title": each.title, "seed": each.seed, **each.figures.round(4).to_dict()}
        for each in scores
    ]
    print(json.dumps({"benchmark": "ablation", "used_for": "model selection", "runs": runs}))


if __name__ == "__main__":
    main()
