"""Effect of the tissue on accuracy: `python -m benchmarks.accuracy.tissue --model mini-fast`.

Every cell of the validation studies is annotated among all cell types: without its tissue, with
candidates restricted to the tissue, and weighted by it with several strengths. The tissue is that in
obs. The default strength was chosen here, so its scores are optimistic; the tissue prior comes only
from the training files. `excluded` is the share of a study's own types that are not in the candidates
of its tissue. Files of a study are averaged first.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from benchmarks.data.arguments import add_models, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.model_scores import candidate_scores, file_features
from benchmarks.scoring.scoring import by_study, score_space
from langcell.checkpoints.checkpoint import list_bundled_models
from langcell.counts.obs_columns import read_obs_column
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from ontology.tissue_prior import TissuePrior, rules_out
from zeroshot.labels.candidates import all_candidates
from zeroshot.labels.tissue_weights import COLUMN, STRENGTH, added_log_prior

STRENGTHS = (0.5, 1.0, 2.0, 4.0)
SHOWN = ("accuracy", "descendant", "top5", "macro_f1", "macro_f1_all")

Added = Callable[[str], np.ndarray]  # from a tissue to an addend of the log-probabilities


def ways(prior: TissuePrior, candidates: Sequence[str]) -> dict[str, Added]:
    """Return the methods of using a tissue, by name."""

    @cache
    def known(tissue: str) -> np.ndarray:
        return prior.log_prior(tissue, candidates) if tissue else np.zeros(len(candidates))

    def weigh(strength: float) -> Added:
        return lambda tissue: added_log_prior(known(tissue), mode="weigh", strength=strength)

    return {
        "none": lambda _tissue: np.zeros(len(candidates)),
        "restrict": lambda tissue: added_log_prior(known(tissue), mode="restrict"),
        **{f"weigh x {strength:g}": weigh(strength) for strength in STRENGTHS},
    }


def excluded_share(
    file: LabelledFile, tissues: np.ndarray, prior: TissuePrior
) -> tuple[float, list[str]]:
    """Return the share of a file's types that its tissue excludes, and these types."""
    pairs = sorted(set(zip(tissues, file.truth_ids, strict=True)))
    out = [
        term_id
        for tissue, term_id in pairs
        if tissue and rules_out(prior.log_prior(tissue, [term_id]))[0]
    ]
    return len(out) / len(pairs), sorted(set(out))


def measure(
    name: str,
    model: LangCell,
    files: Sequence[LabelledFile],
    prior: TissuePrior,
    ontology: Ontology,
) -> dict[str, pd.DataFrame]:
    """Return the scores of every method, one row per study."""
    candidates = all_candidates(ontology)
    assert candidates.subtypes is not None
    known = ways(prior, candidates.ids)
    scores: dict[str, dict[str, list]] = {way: {} for way in known}
    for file in files:
        print(f"{name} on {file.name}", file=sys.stderr, flush=True)
        tissues = tissues_of(file, prior)
        features = file_features(model, file)
        found = candidate_scores(model, features, candidates, even=False)  # (n_cells, n_candidates)
        for way, added in known.items():
            weighed = found.copy()
            for tissue in np.unique(tissues):
                weighed[tissues == tissue] += added(tissue).astype(np.float32)
            weighed -= logsumexp(weighed, axis=1, keepdims=True)
            passed = candidates.subtypes.pass_down(weighed)
            score = score_space(file.truth_ids, passed, candidates.ids, ontology)
            scores[way].setdefault(file.study, []).append(score)
    return {way: by_study(each) for way, each in scores.items()}


def tissues_of(file: LabelledFile, prior: TissuePrior) -> np.ndarray:
    """Return the UBERON id of each labelled cell's tissue, '' if unknown."""
    values = read_obs_column(file.path, COLUMN)[file.is_labelled]
    ids = {value: prior.tissue_map.resolve(value).term_id or "" for value in set(values)}
    return np.array([ids[value] for value in values])


def print_table(name: str, figures: dict[str, pd.DataFrame]) -> None:
    """Print the means of every method, and the accuracy of each study."""
    studies = list(figures["none"].index)
    print(f"\n{name}: all cell types, mean of {len(studies)} studies")
    print(f"{'':<12}" + "".join(f"{each:>14}" for each in SHOWN))
    for way, table in figures.items():
        chosen = "  <- used" if way == f"weigh x {STRENGTH:g}" else ""
        print(f"{way:<12}" + "".join(f"{table[each].mean():>14.3f}" for each in SHOWN) + chosen)
    print("\naccuracy, and under the descendant rule, of each study")
    print(f"{'':<12}" + "".join(f"{each[:18]:>20}" for each in studies))
    for way, table in figures.items():
        pairs = [f"{table.accuracy[each]:.3f} {table.descendant[each]:.3f}" for each in studies]
        print(f"{way:<12}" + "".join(f"{each:>20}" for each in pairs), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add_models(parser, "every bundled model")
    parser.add_argument("--device", default="cpu")
    return parse(parser)


def main() -> None:
    """Print the excluded share, a table per model, and one JSON line."""
    arguments = parse_arguments()
    ontology = Ontology.bundled()
    files = validation_files(arguments)
    prior = TissuePrior(ontology)
    excluded = {}
    print("types of each file that restricting excludes")
    for file in files:
        excluded[file.name], which = excluded_share(file, tissues_of(file, prior), prior)
        names = ", ".join(ontology.terms[term_id].name for term_id in which)
        print(f"{file.name:<32}{excluded[file.name]:>7.1%}  {names}", flush=True)
    results, digests = {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
        for name in arguments.model or list_bundled_models():
            model = LangCell.from_pretrained(name, device=arguments.device)
            figures = measure(name, model, files, prior, ontology)
            print_table(name, figures)
            digests[name] = model.sha256
            results[name] = {
                way: {each: round(float(table[each].mean()), 4) for each in SHOWN}
                for way, table in figures.items()
            }
    record = {"benchmark": "tissue", "selected on": "validation", "strength": STRENGTH}
    print(json.dumps({**record, "models": digests, "excluded": excluded, "figures": results}))


if __name__ == "__main__":
    main()
