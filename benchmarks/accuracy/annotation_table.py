"""Tables of `benchmarks.accuracy.annotation`: a summary over studies, then every file."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data.studies import SPACES, LabelledFile
from benchmarks.scoring.scoring import FIGURES, SpaceScore, by_study, mean_and_interval

# Columns of the summary: label space and score.
_SUMMARY = {
    "own mF1": ("own", "macro_f1_all"),
    "own acc": ("own", "accuracy"),
    "tis desc": ("tissue", "descendant"),
    "all desc": ("all", "descendant"),
    "all top5": ("all", "top5"),
    "all hF1": ("all", "hierarchical_f1"),
    "all dist": ("all", "distance"),
}
_SHORT = {
    "accuracy": "acc",
    "macro_f1": "mF1>=10",
    "macro_f1_all": "mF1",
    "top5": "top5",
    "descendant": "desc",
    "hierarchical_f1": "hF1",
    "distance": "dist",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileResult:
    """Scores of one annotator on one file.

    Attributes
    ----------
    sizes: number of candidates of each label space
    covered: share of the file's types that are among the types of its tissue
    scores: by label space
    """

    annotator: str
    file: LabelledFile
    sizes: dict[str, int]
    covered: float
    scores: dict[str, SpaceScore]


def study_means(results: Sequence[FileResult], annotator: str, space: str) -> pd.DataFrame:
    """Return the scores of an annotator in a label space: one row per study, one column per score."""
    files: dict[str, list[SpaceScore]] = defaultdict(list)
    for result in results:
        if result.annotator == annotator:
            files[result.file.study].append(result.scores[space])
    return by_study(files)


def print_tables(results: Sequence[FileResult], skipped: Sequence[str]) -> None:
    """Print the summary with intervals, then a line for each file, space and annotator."""
    names = _names(results)
    studies = list(dict.fromkeys(result.file.study for result in results))
    print("Means over studies; on the right own mF1 (all types) of each study")
    head = " ".join(f"{each:>8}" for each in _SUMMARY)
    print(f"{'annotator':<18} {head} | " + " ".join(f"{each:>8.8}" for each in studies))
    for name in names:
        tables = {space: study_means(results, name, space) for space in SPACES}
        means = [tables[space][figure].mean() for space, figure in _SUMMARY.values()]
        own = tables["own"]["macro_f1_all"]
        print(f"{name:<18.18} {_cells(means)} | {_cells([own[study] for study in studies])}")
    for line in skipped:
        print(line)
    print("\n95 % intervals, bootstrap over studies")
    for name in names:
        shown = []
        for space, figure in _SUMMARY.values():
            values = study_means(results, name, space)[figure].to_numpy()
            _, low, high = mean_and_interval(values)
            shown.append(f"{low:.2f}-{high:.2f}")
        print(f"{name:<18.18} " + " ".join(f"{each:>9}" for each in shown))
    _print_files(results, names)


def _print_files(results: Sequence[FileResult], names: Sequence[str]) -> None:
    head = " ".join(f"{_SHORT[each]:>8}" for each in FIGURES)
    for file in dict.fromkeys(result.file for result in results):
        of_file = {each.annotator: each for each in results if each.file is file}
        first = next(iter(of_file.values()))
        majority = max(np.unique(file.truth_ids.astype(str), return_counts=True)[1])
        print(
            f"\n{file.name} ({file.study}): {file.n_cells} cells, {first.sizes['own']} types, "
            f"largest {majority / file.n_cells:.3f}, chance {1 / first.sizes['own']:.3f}; "
            f"{first.covered:.2f} of the types are among the tissue's {first.sizes['tissue']}"
        )
        print(f"{'annotator':<18} {'space':<7} {head}")
        for name in names:
            for space in SPACES:
                values = list(asdict(of_file[name].scores[space]).values())
                print(f"{name:<18.18} {space:<7} {_cells(values)}")
    print()


def record_of(results: Sequence[FileResult]) -> dict[str, Any]:
    """Return files, means and intervals as plain values for JSON."""
    files: dict[str, Any] = {}
    for result in results:
        file = files.setdefault(
            result.file.name,
            {
                "study": result.file.study,
                "n_cells": result.file.n_cells,
                "n_candidates": result.sizes,
                "types_in_tissue_space": round(result.covered, 4),
                "scores": {},
            },
        )
        file["scores"][result.annotator] = {
            space: {figure: _plain(value) for figure, value in asdict(score).items()}
            for space, score in result.scores.items()
        }
    means = {
        name: {space: _means(study_means(results, name, space)) for space in SPACES}
        for name in _names(results)
    }
    return {"files": files, "mean": means}


def _means(studies: pd.DataFrame) -> dict[str, list[float | None]]:
    """Return mean, lower and upper end of the interval of each score."""
    return {
        figure: [_plain(each) for each in mean_and_interval(studies[figure].to_numpy())]
        for figure in FIGURES
    }


def _names(results: Sequence[FileResult]) -> list[str]:
    return list(dict.fromkeys(result.annotator for result in results))


def _cells(values: Sequence[float]) -> str:
    return " ".join(f"{value:>8.3f}" for value in values)


def _plain(value: float) -> float | None:
    """Round for JSON, which has no NaN."""
    return None if np.isnan(value) else round(float(value), 4)
