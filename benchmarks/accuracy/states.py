"""Few-shot prediction of cell and donor states: `python -m benchmarks.accuracy.states`.

Cells: whether cells of Kang 2018 were stimulated with interferon. The file has no donors, so training and
test cells share donors: `cells` draws k cells of each condition and predicts the others; `types` holds
each cell type out in turn and draws k cells of each condition of the other types. This is a single study,
so the scores do not generalise to other laboratories.

Donors: whether donors of Darmanis 2015 are fetal or adult, by their names (FB, AB), each held out in turn.
They also differ in cell types, so the task is easy. It is the only one in these files: in Baron only one
donor has diabetes, which is too few.

Baselines: logistic regressions on log counts of the most variable genes, and on 50 principal components, of
cells or of donor means. Nothing was tuned, except that heads for states do not use texts.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from benchmarks.accuracy.fewshot import StudyCells, read_cells
from benchmarks.data.arguments import add_model, make_parser, parse, validation_files
from langcell.counts.obs_columns import read_obs_column
from langcell.model.embed_cells import CellEmbeddings
from langcell.model.embedder import load_embedder
from langcell.nn import metrics
from ontology.graph import Ontology
from zeroshot.fit.fit_donor_head import donor_means, donors_held_out, mean_weights
from zeroshot.fit.fit_head import LabelledCells, fit_head

SHOTS = (1, 5, 10, 50)
KEYS = ("text: first", "text: second")
BaselineMethod = Callable[[StudyCells, LabelledCells, np.ndarray, np.ndarray], np.ndarray]


def with_states(cells: StudyCells, states: np.ndarray) -> LabelledCells:
    """Return the cells with states as labels, which have no texts."""
    return replace(
        cells.shots,
        labels=states.astype(np.int64),
        keys=KEYS,
        label_features=np.zeros((2, cells.shots.features.shape[1])),
        texts=np.zeros((len(states), 2), np.float32),
    )


def by_head(
    cells: StudyCells, shots: LabelledCells, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Fit a head for states."""
    head = fit_head(shots.part(train), "linear", model="", model_sha256="")
    rest = shots.part(test)
    return head.log_odds(rest.features, rest.tokens).argmax(axis=1)


def regressed(inputs: str) -> BaselineMethod:
    """Return the method that fits a logistic regression on given inputs."""

    def call(
        cells: StudyCells, shots: LabelledCells, train: np.ndarray, test: np.ndarray
    ) -> np.ndarray:
        values = getattr(cells, inputs)
        found = LogisticRegression(max_iter=300).fit(values[train], shots.labels[train])
        return found.predict(values[test])

    return call


METHODS: dict[str, BaselineMethod] = {
    "langcell": by_head,
    "logistic, log counts": regressed("log_counts"),
    "logistic, PCA": regressed("components"),
}


def splits(
    states: np.ndarray, types: np.ndarray, protocol: str, k: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training rows, k per state, and test rows."""
    rng, rows = np.random.default_rng([seed, k]), np.arange(len(states))
    for held_out in np.unique(types) if protocol == "types" else (None,):
        pool = rows if held_out is None else rows[types != held_out]
        train = np.concatenate([rng.permutation(pool[states[pool] == each])[:k] for each in (0, 1)])
        test = np.setdiff1d(rows, train) if held_out is None else rows[types == held_out]
        yield np.sort(train), test


def measure_cells(cells: StudyCells, states: np.ndarray, n_seeds: int) -> pd.DataFrame:
    """Score every method; return one row per protocol, k, seed and method."""
    shots, rows = with_states(cells, states), []
    for protocol in ("cells", "types"):
        for k in SHOTS:
            for seed in range(n_seeds):
                scored: dict[str, list[float]] = {name: [] for name in METHODS}
                for train, test in splits(states, cells.shots.labels, protocol, k, seed):
                    for name, method in METHODS.items():
                        called = method(cells, shots, train, test)
                        found = metrics.macro_f1(shots.labels[test], called, min_cells=1)
                        scored[name].append(found)
                for name, found_of in scored.items():
                    rows.append((protocol, k, seed, name, float(np.mean(found_of))))
    return pd.DataFrame(rows, columns=["protocol", "k", "seed", "method", "macro_f1"])


def measure_donors(cells: StudyCells, donors: np.ndarray, states: np.ndarray) -> dict[str, float]:
    """Return the accuracy over donors of each method, and of the most frequent label."""
    shots = cells.shots
    names, weights = mean_weights(donors, None)
    labels = np.array([states[donors == name][0] for name in names]).astype(np.int64)
    embedded = CellEmbeddings(start=0, features=shots.features, tokens=shots.tokens)
    right = {"largest label": metrics.majority_accuracy(labels)}
    called = np.empty_like(labels)
    for rows, found in donors_held_out(donor_means([embedded], donors), labels, KEYS):
        called[rows] = found.argmax(axis=1)
    right["langcell"] = float(np.mean(called == labels))
    for title, inputs in (("log counts", cells.log_counts), ("PCA", cells.components)):
        means, rows = weights @ inputs, np.arange(len(names))
        for row in rows:
            found = LogisticRegression(max_iter=300, class_weight="balanced")
            found.fit(means[rows != row], labels[rows != row])
            called[row] = found.predict(means[[row]])[0]
        right[f"logistic, {title}"] = float(np.mean(called == labels))
    return {"donors": float(len(names)), **right}


def print_table(table: pd.DataFrame) -> None:
    """Print mean macro-F1, and its standard deviation over seeds."""
    for protocol, part in table.groupby("protocol"):
        print(f"\nKang 2018, stimulated or control; {protocol} held out, donors not")
        print(f"{'macro-F1':<24}" + "".join(f"{f'{k} shots':>16}" for k in SHOTS))
        for name in METHODS:
            by_k = part[part.method == name].groupby("k").macro_f1
            shown = [f"{by_k.mean()[k]:.3f} sd {by_k.std()[k]:.3f}" for k in SHOTS]
            print(f"{name:<24}" + "".join(f"{each:>16}" for each in shown))


def main() -> None:
    """Print tables and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--seeds", type=int, default=5)
    given = parse(parser)
    files = {file.name: file for file in validation_files(given)}
    model, ontology = load_embedder(given.model), Ontology.bundled()
    kang, darmanis = files["kang2018_pbmc_ifnb"], files["darmanis2015_brain"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small panels, and warnings of scanpy about tiny files
        condition = read_obs_column(kang.path, "condition")[kang.is_labelled]
        cells = read_cells(kang, model, ontology)
        table = measure_cells(cells, condition == "stimulated", given.seeds)
        donors = read_obs_column(darmanis.path, "donor")[darmanis.is_labelled].astype(str)
        is_fetal = np.array([name.startswith("FB") for name in donors])
        by_donor = measure_donors(read_cells(darmanis, model, ontology), donors, is_fetal)
    print(f"{given.model}, {given.seeds} seeds")
    print_table(table)
    print(
        f"\nDarmanis 2015, fetal or adult; {by_donor.pop('donors'):.0f} donors, each left out in turn"
    )
    for name, share in by_donor.items():
        print(f"{name:<24}{share:>8.3f} right")
    means = table.groupby(["protocol", "method", "k"]).macro_f1.mean().round(4).reset_index()
    figures = {"cells": means.to_dict("records"), "donors": by_donor}
    print(json.dumps({"benchmark": "states", "model": given.model, "figures": figures}))


if __name__ == "__main__":
    main()
