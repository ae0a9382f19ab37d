"""Calibration of confidences: `python -m benchmarks.accuracy.calibration --model mini-fast`.

Leave one study out: a calibration is fitted on five validation studies and tested on the sixth, among
all cell types and among the study's own labels. A call is correct if it is the truth or an ancestor
of it. Files of a study are averaged first, then studies. `--fit calibration.json` writes the
calibration fitted on all six.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from benchmarks.data.amended_labels import amend, contradicted
from benchmarks.data.arguments import add_model, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.model_scores import file_features
from benchmarks.scoring.selective import SelectiveFigures, selective_figures
from langcell.checkpoints.checkpoint import list_bundled_models
from langcell.model.embed_cells import CellEmbeddings
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.backoff import terms_by_depth
from zeroshot.confidence.calibration import UNCALIBRATED, CalibrationCurve
from zeroshot.confidence.reliability import Reliability
from zeroshot.fit.fit_calibration import (
    TEMPERATURE_ALL,
    TEMPERATURE_GIVEN,
    ConfidenceFunction,
    LabelledTerms,
    confidence_function,
    curve_learner,
    fit_calibration,
    label_terms,
    leave_one_out,
    score_terms_by_depth,
)
from zeroshot.labels.candidates import all_candidates, own_candidates

SPACES = ("all", "own")
LEVEL = 0.9
_LEAST_PROBABLE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class FileTerms:
    """Terms of each depth for the cells of one file in one label space.

    Attributes
    ----------
    tempered, published: terms of each depth at the calibration temperature, against amended and
        against published labels
    plain: the same at temperature 1, against amended labels
    leaf: only the best candidate, with its softmax probability, against amended labels
    leaf_depths: depth of the best candidates, shape (n_cells, 1)
    """

    tempered: LabelledTerms
    published: LabelledTerms
    plain: LabelledTerms
    leaf: LabelledTerms
    leaf_depths: np.ndarray


def file_terms(
    scorer: CellScorer,
    features: np.ndarray,
    file: LabelledFile,
    wrong: np.ndarray,
    ontology: Ontology,
) -> FileTerms:
    """Compute the terms of each depth for a file; `wrong` marks cells with a contradicted label."""
    tempered = score_terms_by_depth(scorer, features)
    scores, everything = scorer.score_all(CellEmbeddings(start=0, features=features))
    plain = terms_by_depth(everything, scorer.tree, scores.best, temperature=1.0)
    softmax = np.exp(scores.log_probabilities[:, :1].astype(np.float64))
    leaf = replace(plain, terms=plain.leaf_terms[:, None], probabilities=softmax)
    published = label_terms(tempered, file.truth_ids, ontology, study=file.study)
    labelled = [
        label_terms(each, file.truth_ids, ontology, study=file.study) for each in (plain, leaf)
    ]
    return FileTerms(
        tempered=amend(published, tempered, file, wrong),
        published=published,
        plain=amend(labelled[0], plain, file, wrong),
        leaf=amend(labelled[1], leaf, file, wrong),
        leaf_depths=scorer.tree.depths[leaf.terms][~wrong],
    )


def all_terms(
    model: LangCell, files: Sequence[LabelledFile], ontology: Ontology
) -> dict[str, list[FileTerms]]:
    """Compute the terms of each depth for all files, by label space."""
    options = AnnotateOptions(calibration=UNCALIBRATED)
    everything = CellScorer(model, all_candidates(ontology), options)
    found: dict[str, list[FileTerms]] = {space: [] for space in SPACES}
    for file in files:
        print(f"embedding {file.name}", file=sys.stderr, flush=True)
        features, wrong = file_features(model, file), contradicted(file)
        own = own_candidates(sorted(set(file.truth_ids)), ontology)
        scorers = {"all": everything, "own": CellScorer(model, own, options)}
        for space, scorer in scorers.items():
            found[space].append(file_terms(scorer, features, file, wrong, ontology))
    return found


def fit_isotonic(parts: Sequence[LabelledTerms]) -> ConfidenceFunction:
    """Fit an isotonic function per depth; a term is at least as confident as its descendants."""
    n_depths = max(part.probabilities.shape[1] for part in parts)
    sizes = pd.Series([len(part.is_right) for part in parts], [part.study for part in parts])
    n_cells = sizes.groupby(level=0).sum()
    curves = []
    for depth in range(n_depths):
        here = [part for part in parts if part.probabilities.shape[1] > depth]
        probabilities = np.concatenate([part.probabilities[:, depth] for part in here])
        right = np.concatenate([part.is_right[:, depth] for part in here]).astype(float)
        weights = np.concatenate(
            [np.full(len(part.is_right), 1 / n_cells[part.study]) for part in here]
        )
        kept = probabilities >= _LEAST_PROBABLE
        curve = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1)
        if kept.any():
            curve.fit(probabilities[kept], right[kept], sample_weight=weights[kept])
        curves.append(curve if kept.any() else None)

    def confidence(part: LabelledTerms) -> np.ndarray:
        found = np.zeros_like(part.probabilities)
        for depth in range(min(found.shape[1], n_depths)):
            curve = curves[depth]
            if curve is not None:
                found[:, depth] = curve.predict(part.probabilities[:, depth])
        return np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]

    return confidence


def judge(
    by_depth: Sequence[FileTerms], *, temperature: float
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each method and its scores by study."""
    tempered = [each.tempered for each in by_depth]
    plain = [each.plain for each in by_depth]
    logistic = leave_one_out(tempered, curve_learner(temperature))
    as_is = confidence_function(CalibrationCurve())
    depths = [np.arange(part.is_right.shape[1]) for part in tempered]
    methods: dict[str, tuple[list[np.ndarray], list[LabelledTerms], list[np.ndarray]]] = {
        "calibrated back-off": (logistic, tempered, depths),
        "the same, labels as published": (logistic_published(by_depth, temperature), [each.published for each in by_depth], depths),
        "temperature, isotonic by depth": (leave_one_out(tempered, fit_isotonic), tempered, depths),
        "raw back-off": ([as_is(part) for part in plain], plain, depths),
        "softmax of the best, no back-off": ([each.leaf.probabilities for each in by_depth], [each.leaf for each in by_depth], [each.leaf_depths for each in by_depth]),
    }  # fmt: skip
    for name, (confidence, parts, at) in methods.items():
        figures: dict[str, list[SelectiveFigures]] = {}
        for sure, part, depth in zip(confidence, parts, at, strict=True):
            sure = np.where(part.probabilities > 0, sure, 0)
            found = selective_figures(sure, part.is_right, depth, level=LEVEL)
            figures.setdefault(part.study, []).append(found)
        yield name, by_study(figures)


def logistic_published(by_depth: Sequence[FileTerms], temperature: float) -> list[np.ndarray]:
    """Fit on amended labels of the other studies, for a test on published labels."""
    studies = sorted({each.tempered.study for each in by_depth})
    learn = curve_learner(temperature)
    learnt = {
        study: learn([each.tempered for each in by_depth if each.tempered.study != study])
        for study in studies
    }
    return [learnt[each.published.study](each.published) for each in by_depth]


def by_study(figures: Mapping[str, Sequence[SelectiveFigures]]) -> pd.DataFrame:
    """Average the files of each study; return one row per study."""
    return pd.DataFrame(
        {
            study: pd.DataFrame([asdict(each) for each in found]).mean()
            for study, found in figures.items()
        }
    ).T


def print_reliability(measured: Reliability) -> None:
    """Print the reliability that a calibration records."""
    bins, curve = measured.bins, (measured.levels, measured.coverage, measured.risk)
    print(f"\n{measured.measured_on}\nreliability of the deepest call of at least 0.5, all studies")
    tables = (
        {"confidence": bins.confidence, "accuracy": bins.accuracy, "cells": bins.n_cells},
        dict(zip(("level", "coverage", "risk"), curve, strict=True)),
    )
    for table in tables:
        print(pd.DataFrame(table).to_string(index=False, float_format="{:.3f}".format))
    print(f"calibration error within a study {measured.ece:.3f}")


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Round for JSON, which has no NaN."""
    return {
        key: round(float(value), 4) if np.isfinite(value) else None
        for key, value in figures.items()
    }


def main() -> None:
    """Measure, print tables and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--fit", type=Path, help="write the calibration fitted on all studies")
    options = parse(parser)
    ontology, model = Ontology.bundled(), LangCell.from_pretrained(options.model)
    files = validation_files(options)
    by_depth = all_terms(model, files, ontology)
    results: dict[str, dict[str, dict[str, float | None]]] = {}
    for space in SPACES:
        temperature = TEMPERATURE_ALL if space == "all" else TEMPERATURE_GIVEN
        results[space] = {}
        for name, table in judge(by_depth[space], temperature=temperature):
            print(f"\n{name}; candidates: {space}; level {LEVEL:g}; leave one study out")
            print(table.to_string(float_format="{:.3f}".format))
            results[space][name] = _finite(
                {**table.mean(), "lowest_accuracy": table["accuracy"].min()}
            )
            print("over studies ", results[space][name])
    place = "langcell/models/" if options.model in list_bundled_models() else ""
    calibration = fit_calibration(
        [each.tempered for each in by_depth["all"]],
        [each.tempered for each in by_depth["own"]],
        model_sha256=model.sha256,
        command=f"python -m benchmarks.accuracy.calibration --model {options.model} "
        f"--fit {place}{options.model}/calibration.json",
        remark="some labels set right, see benchmarks/data/amended_labels.py; the model was chosen on "
        "the same studies",
    )
    for measured in (calibration.all_types_reliability, calibration.given_reliability):
        if measured is not None:
            print_reliability(measured)
    if options.fit:
        options.fit.write_text(calibration.to_json(), encoding="utf-8")
        print(f"\nwrote {options.fit}: {calibration.identifier}")
    print(
        "\nlabels amended as benchmarks/data/amended_labels.py says; selected and calibrated on these studies"
    )
    print(json.dumps({"benchmark": "calibration", "model": options.model, "level": LEVEL, "studies": len({file.study for file in files}), "cells": sum(file.n_cells for file in files), "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()
