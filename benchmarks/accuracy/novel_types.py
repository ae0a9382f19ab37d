"""Detection of novel cell types: `python -m benchmarks.accuracy.novel_types`.

For each validation file and draw, a share of the study's types is held out. Half of the cells of each
other type, at most `--shots`, are the labelled reference. If a file has two donors or more (Baron,
Darmanis) or two conditions (Kang), half of these give the reference and the others the test cells;
otherwise all cells but the reference are tested (Braun, Chen, Wu). Every method gives each test cell a
novelty score: AUROC of held-out against labelled types, and the share of cells of labelled types flagged
at the threshold that flags 95 % of the others (FPR@95TPR).

H-score: a cell is predicted novel if its score is above the 80th percentile of reference cells, scored in
three folds by methods fitted to the other folds; otherwise it gets a type. The H-score is the harmonic
mean of the share of cells of labelled types with the correct type, and of held-out cells predicted novel.

`text` knows the labelled types only by their descriptions. The weight of the text in the head's novelty
was chosen on these studies; nothing was tuned for the baselines.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from benchmarks.accuracy.fewshot import StudyCells, read_cells
from benchmarks.accuracy.ood import auroc, fpr_at_95
from benchmarks.data.arguments import add_model, make_parser, parse, validation_files
from langcell.model.embedder import load_embedder
from langcell.nn import metrics
from ontology.graph import Ontology
from zeroshot.fit.fit_head import LabelledCells, choose_kind, fit_head

SHARES = (0.25, 0.5)
_FOLDS, _PERCENTILE = 3, 80
_MIN_CELLS = 5  # test cells of held-out and of labelled types


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetCall:
    """Predictions of a method: index of the label, and novelty score, of each cell."""

    called: np.ndarray
    novelty: np.ndarray


TargetScorer = dict[str, TargetCall]  # by method
# From reference rows and test rows to predictions by method.
Judge = Callable[[StudyCells, LabelledCells, np.ndarray, np.ndarray], TargetScorer]


def by_head(
    cells: StudyCells, shots: LabelledCells, train: np.ndarray, test: np.ndarray
) -> TargetScorer:
    """Fit a head; return its novelty score, and one minus its best probability."""
    some, rest = shots.part(train), shots.part(test)
    head = fit_head(some, choose_kind(some), model="", model_sha256="")
    found = head.log_probabilities(rest.texts, rest.features, rest.tokens)
    called, best = found.argmax(axis=1), np.exp(found.max(axis=1))
    return {
        "langcell, head": TargetCall(called=called, novelty=head.novelty(rest.features)),
        "langcell, head 1 - max p": TargetCall(called=called, novelty=1 - best),
    }


def by_text(
    cells: StudyCells, shots: LabelledCells, train: np.ndarray, test: np.ndarray
) -> TargetScorer:
    """Use texts only; return the distance to the nearest labelled type, and the probability."""
    nearest = (shots.features[test] @ shots.label_features.T).max(axis=1)
    called, best = shots.texts[test].argmax(axis=1), np.exp(shots.texts[test].max(axis=1))
    return {
        "langcell, text": TargetCall(called=called, novelty=-nearest),
        "langcell, text 1 - max p": TargetCall(called=called, novelty=1 - best),
    }


def by_logistic(
    cells: StudyCells, shots: LabelledCells, train: np.ndarray, test: np.ndarray
) -> TargetScorer:
    """Fit a logistic regression on principal components; return one minus its best probability."""
    found = LogisticRegression(max_iter=300).fit(cells.components[train], shots.labels[train])
    probabilities = found.predict_proba(cells.components[test])
    called = found.classes_[probabilities.argmax(axis=1)]
    target_call = TargetCall(called=called, novelty=1 - probabilities.max(axis=1))
    return {"logistic PCA, 1 - max p": target_call}


def by_neighbour(
    cells: StudyCells, shots: LabelledCells, train: np.ndarray, test: np.ndarray
) -> TargetScorer:
    """Use the nearest cell in principal components; return its distance."""
    known, asked = cells.components[train], cells.components[test]
    squares = (asked**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * asked @ known.T
    called = shots.labels[train][squares.argmin(axis=1)]
    return {"kNN PCA, distance": TargetCall(called=called, novelty=squares.min(axis=1))}


JUDGES: tuple[Judge, ...] = (by_head, by_text, by_logistic, by_neighbour)


def score(found: TargetCall, truth: np.ndarray, threshold: float) -> dict[str, float]:
    """Score the predictions of a method; cells of held-out types have truth -1.

    Cells with novelty above the threshold are predicted novel.
    """
    is_flagged, is_novel = found.novelty > threshold, truth < 0
    seen = float(np.mean((found.called == truth)[~is_novel] & ~is_flagged[~is_novel]))
    return {
        "auroc": auroc(found.novelty[~is_novel], found.novelty[is_novel]),
        "fpr95": fpr_at_95(found.novelty[~is_novel], found.novelty[is_novel]),
        "h": metrics.h_score(seen, float(np.mean(is_flagged[is_novel]))),
    }


def thresholds(
    judge: Judge, cells: StudyCells, shots: LabelledCells, train: np.ndarray
) -> dict[str, float]:
    """Return the novelty threshold of each method, from reference cells it was not fitted to."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    parts: dict[str, list[np.ndarray]] = {}
    for seen, unseen in folds.split(train, shots.labels[train]):
        if len(np.unique(shots.labels[train[seen]])) > 1:
            for name, found in judge(cells, shots, train[seen], train[unseen]).items():
                parts.setdefault(name, []).append(found.novelty)
    return {
        name: float(np.percentile(np.concatenate(each), _PERCENTILE))
        for name, each in parts.items()
    }


def draws(
    cells: StudyCells, share: float, shots: int, n_draws: int
) -> Iterator[tuple[LabelledCells, np.ndarray, np.ndarray]]:
    """Yield labels without the held-out types, reference rows and test rows."""
    whole = cells.shots
    types = np.unique(whole.labels)
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        held_out = rng.permutation(types)[: max(1, round(share * len(types)))]
        pool, rest = np.arange(len(whole)), np.arange(len(whole))
        if whole.groups is not None:
            names = rng.permutation(sorted(set(whole.groups) - {""}))
            in_reference = np.isin(whole.groups, names[: len(names) // 2])
            pool, rest = np.flatnonzero(in_reference), np.flatnonzero(~in_reference)
        drawn = [np.empty(0, dtype=np.int64)]
        for label in np.setdiff1d(np.unique(whole.labels[pool]), held_out):
            members = rng.permutation(pool[whole.labels[pool] == label])
            drawn.append(members[: min(shots, max(1, len(members) // 2))])
        train = np.sort(np.concatenate(drawn))
        kept = np.unique(whole.labels[train])
        test = np.setdiff1d(rest, train)
        test = test[np.isin(whole.labels[test], [*kept, *held_out])]
        n_novel = int(np.isin(whole.labels[test], held_out).sum())
        if len(kept) > 1 and min(n_novel, len(test) - n_novel) >= _MIN_CELLS:
            yield _only(whole, kept), train, test


def _only(shots: LabelledCells, kept: np.ndarray) -> LabelledCells:
    """Keep only some labels as candidates."""
    place = np.full(len(shots.keys), -1)
    place[kept] = np.arange(len(kept))
    texts = shots.texts[:, kept]
    texts = texts - np.log(np.exp(texts).sum(axis=1, keepdims=True))
    return replace(
        shots,
        labels=place[shots.labels],
        keys=tuple(shots.keys[row] for row in kept),
        label_features=shots.label_features[kept],
        texts=texts,
    )


def measure(cells: StudyCells, shots: int, n_draws: int) -> Iterator[dict[str, object]]:
    """Yield the scores of every method, share and draw of a file."""
    for share in SHARES:
        for number, (known, train, test) in enumerate(draws(cells, share, shots, n_draws)):
            place = {"study": cells.file.study, "share": share, "draw": number}
            for judge in JUDGES:
                threshold = thresholds(judge, cells, known, train)
                for name, found in judge(cells, known, train, test).items():
                    figures = score(found, known.labels[test], threshold[name])
                    yield {"method": name, **place, **figures}


def print_table(table: pd.DataFrame) -> None:
    """Print means over studies, and the AUROC of each study."""
    for share, part in table.groupby("share"):
        studies = part.groupby(["method", "study"])[["auroc", "fpr95", "h"]].mean()
        spread = part.groupby(["method", "draw"])["auroc"].mean().groupby("method").std()
        print(f"\n{share:.0%} of the types held out; means over studies | AUROC of each")
        names = sorted(set(part.study))
        print(
            f"{'':<26}{'AUROC':>14}{'FPR@95':>8}{'H':>7} | "
            + " ".join(f"{x[:9]:>9}" for x in names)
        )
        for name in part["method"].unique():
            means = studies.loc[name].mean()
            shown = f"{means.auroc:.3f} sd {spread[name]:.3f}"
            each = " ".join(f"{studies.auroc[name, x]:>9.3f}" for x in names)
            print(f"{name:<26}{shown:>14}{means.fpr95:>8.3f}{means.h:>7.3f} | {each}")


def main() -> None:
    """Print a table per share, and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--shots", type=int, default=10, help="labelled cells per type")
    parser.add_argument("--draws", type=int, default=5)
    given = parse(parser)
    files = validation_files(given)
    model, ontology = load_embedder(given.model), Ontology.bundled()
    rows: list[dict[str, object]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small panels, and warnings of scanpy about tiny files
        for file in files:
            print(f"{file.name}: {file.n_cells} cells", file=sys.stderr, flush=True)
            rows += measure(read_cells(file, model, ontology), given.shots, given.draws)
    table = pd.DataFrame(rows)
    print(
        f"{given.model}, own labels, {len(files)} files, {given.draws} draws, up to {given.shots} "
        "labelled cells a type"
    )
    print_table(table)
    means = table.groupby(["share", "method", "study"])[["auroc", "fpr95", "h"]].mean()
    figures = means.groupby(threshold=[0, 1]).mean().round(4).reset_index().to_dict("records")
    print(json.dumps({"benchmark": "novel_types", "model": given.model, "figures": figures}))


if __name__ == "__main__":
    main()
