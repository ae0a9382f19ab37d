"""Few-shot annotation: `python -m benchmarks.accuracy.fewshot`.

For each validation file and seed, k cells of each of the study's own labels are drawn and every method
predicts the others; macro-F1 is over all types. If a file has two donors or more (Baron, Darmanis; for
Kang its two conditions), each of them is held out in turn and cells are drawn from the others. Other
files are `within`: training and test cells are of the same study, and they are averaged separately.
Labels with fewer than 2 k cells give half of their cells. Baselines get the same cells: logistic
regression on log counts of the most variable genes and on 50 principal components, nearest neighbours
in these, CellTypist on the log counts (extra `celltypist`; stochastic gradient descent with the
package's settings), scANVI, which also reads the test cells without their labels (extra `scvi`; an
hour in all on one core), and the model without labels. Components and variable genes are those of the
whole file, which favours the baselines.

With --tune the table also has heads that tune the model; each takes seconds to minutes on a CPU, so
use few --seeds and --shots.

Files of a study are averaged first. The penalties of the head were chosen on the validation studies.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.baselines.celltypist_baseline import celltypist_labels
from benchmarks.baselines.scanvi import UNLABELLED, Scanvi
from benchmarks.data.arguments import add_model, make_parser, parse, validation_files
from benchmarks.data.studies import LabelledFile
from langcell.counts.obs_columns import obs_columns, read_obs_column
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import CellEmbeddings, embed_cells, embed_tokens
from langcell.model.embedder import Embedder, load_embedder
from langcell.nn import metrics
from langcell.tokens.tokenizer import TokenBlock
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.fit.fit_head import Kind, LabelledCells, choose_kind, fit_head
from zeroshot.fit.tuning_recipes import RECIPES
from zeroshot.labels.candidates import CandidateSet, candidate_features, own_candidates

SHOTS = (1, 3, 5, 9)
GROUP_COLUMNS = ("donor", "condition")
N_GENES, N_COMPONENTS = 3000, 50


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyCells:
    """Labelled cells of a file, for every method."""

    file: LabelledFile
    shots: LabelledCells
    counts: sparse.csr_matrix
    candidates: CandidateSet
    model: Embedder

    @cached_property
    def log_counts(self) -> np.ndarray:
        """Log counts of the most variable genes, float32, shape (n_cells, n_genes)."""
        adata = anndata.AnnData(self.counts.astype(np.float32))
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
        scanpy.pp.highly_variable_genes(adata, n_top_genes=min(N_GENES, adata.n_vars))
        return adata.X[:, adata.var["highly_variable"].to_numpy()].toarray()

    @cached_property
    def components(self) -> np.ndarray:
        """Principal components of the log counts."""
        n = min(N_COMPONENTS, min(self.log_counts.shape) - 1)
        return scanpy.pp.pca(self.log_counts, n_comps=n, random_state=0)

    @cached_property
    def scanvi(self) -> Scanvi:
        """ScVI model of the counts of all cells, without labels."""
        return Scanvi(self.counts, self.shots.groups)


BaselineMethod = Callable[
    [StudyCells, np.ndarray, np.ndarray], np.ndarray
]  # training rows, test rows


def with_head(kind: Kind | None) -> BaselineMethod:
    """Return the method that fits a head of a kind, or for None of the chosen kind."""

    def call(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        shots, rest = cells.shots.part(train), cells.shots.part(test)
        head = fit_head(shots, kind or choose_kind(shots), model="", model_sha256="")
        return head.log_probabilities(rest.texts, rest.features, rest.tokens).argmax(axis=1)

    return call


def with_tuned(kind: str) -> BaselineMethod:
    """Return the method that tunes the model with a head of a kind."""

    def call(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        from langcell.model.langcell import LangCell
        from zeroshot.fit.finetune import tune_head
        from zeroshot.fit.tuned_model import LabelTexts

        shots, model = cells.shots.part(train), cells.model
        assert isinstance(model, LangCell), "loaded so where something is tuned"
        labels = LabelTexts.of(cells.candidates, shots.label_features, model)
        head = tune_head(shots, kind, model=model, labels=labels, seed=0).head
        head = replace(head, model_sha256=model.sha256)
        options = AnnotateOptions(calibration=UNCALIBRATED, head=head)
        scorer = CellScorer(model, cells.candidates, options)
        tokens = cells.shots.part(test).tokens
        blocks = embed_tokens(scorer.model, tokens, states=scorer.needs_states)
        return np.concatenate([scorer.score_all(block)[1].argmax(axis=1) for block in blocks])

    return call


def without_labels(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predict from the texts alone."""
    return cells.shots.texts[test].argmax(axis=1)


def regressed(inputs: str) -> BaselineMethod:
    """Return the method that fits a logistic regression on given inputs."""

    def call(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        values = getattr(cells, inputs)
        found = LogisticRegression(max_iter=300).fit(values[train], cells.shots.labels[train])
        return found.predict(values[test])

    return call


def neighbours(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predict by the three nearest labelled cells."""
    found = KNeighborsClassifier(min(3, len(train)))
    found.fit(cells.components[train], cells.shots.labels[train])
    return found.predict(cells.components[test])


def by_celltypist(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predict with CellTypist."""
    values = cells.log_counts
    return celltypist_labels(values[train], cells.shots.labels[train], values[test])


def by_scanvi(cells: StudyCells, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predict with scANVI, fitted on the training labels and the counts of all cells."""
    known = np.full(len(cells.shots), UNLABELLED, dtype=object)
    known[train] = cells.shots.labels[train].astype(str)
    return cells.scanvi.labels(known)[test].astype(np.int64)


METHODS: dict[str, BaselineMethod] = {
    "langcell, auto": with_head(None),
    "langcell, hierarchical": with_head("hierarchical"),
    "langcell, prototype": with_head("prototype"),
    "langcell, no labels": without_labels,
    "logistic, log counts": regressed("log_counts"),
    "logistic, PCA": regressed("components"),
    "kNN, PCA": neighbours,
}
if find_spec("celltypist"):
    METHODS["CellTypist, log counts"] = by_celltypist
if find_spec("scvi"):
    METHODS["scANVI"] = by_scanvi


def read_cells(file: LabelledFile, model: Embedder, ontology: Ontology) -> StudyCells:
    """Embed the labelled cells of a file."""
    features, tokens, counts = [], [], []
    with open_counts(file.path, scale=file.scale) as matrix:
        for block in embed_cells(model, matrix):
            assert block.tokens is not None
            features.append(block.features)
            tokens += [block.tokens.cell(row) for row in range(block.tokens.n_cells)]
        counts = [block.counts for block in matrix.blocks()]
    candidates = own_candidates(sorted(set(file.truth_ids)), ontology)
    whole = CellEmbeddings(start=0, features=np.concatenate(features), tokens=TokenBlock.of(tokens))
    scorer = CellScorer(model, candidates, AnnotateOptions(calibration=UNCALIBRATED))
    groups = find_groups(file)
    assert whole.tokens is not None
    place = {key: row for row, key in enumerate(candidates.keys)}
    labels = np.zeros(len(file.is_labelled), dtype=np.int64)
    labels[file.is_labelled] = [place[each] for each in file.truth_ids]
    everything = LabelledCells(
        labels=labels,
        keys=candidates.keys,
        label_features=candidate_features(candidates, model),
        texts=scorer.score_all(whole)[1],
        features=whole.features,
        tokens=whole.tokens,
        groups=groups,
    )
    rows = np.flatnonzero(file.is_labelled)
    stacked = sparse.vstack(counts, format="csr")[rows]
    return StudyCells(
        file=file,
        shots=everything.part(rows),
        counts=stacked,
        candidates=candidates,
        model=model,
    )


def find_groups(file: LabelledFile) -> np.ndarray | None:
    """Return the donor or condition of all cells of a file, None if it has fewer than two."""
    for column in GROUP_COLUMNS:
        if column in obs_columns(file.path):
            values = read_obs_column(file.path, column)
            if len(set(values[file.is_labelled]) - {""}) > 1:
                return values
    return None


def splits(cells: StudyCells, k: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and test rows: each group held out in turn, or the rest of the file."""
    groups, rng = cells.shots.groups, np.random.default_rng([seed, k])
    if groups is None:
        train = _draw(cells.shots.labels, np.arange(len(cells.shots)), k, rng)
        yield train, np.setdiff1d(np.arange(len(cells.shots)), train)
        return
    names = sorted(set(groups) - {""})
    held_out = names[seed % len(names)]
    train = _draw(cells.shots.labels, np.flatnonzero((groups != held_out) & (groups != "")), k, rng)
    yield train, np.flatnonzero(groups == held_out)


def _draw(labels: np.ndarray, rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    drawn = []
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        drawn.append(members[: min(k, max(1, len(members) // 2))])
    return np.sort(np.concatenate(drawn))


def measure(
    files: Sequence[LabelledFile],
    model: Embedder,
    ontology: Ontology,
    methods: Mapping[str, BaselineMethod],
    *,
    n_seeds: int,
    shots: Sequence[int] = SHOTS,
) -> pd.DataFrame:
    """Score every method; return one row per method, study, k and seed, averaged over files."""
    rows = []
    for file in files:
        print(f"{file.name}: {file.n_cells} cells", file=sys.stderr, flush=True)
        cells = read_cells(file, model, ontology)
        protocol = "within" if cells.shots.groups is None else "held out"
        for k in shots:
            for seed in range(n_seeds):
                for train, test in splits(cells, k, seed):
                    truth = cells.shots.labels[test]
                    for name, method in methods.items():
                        called = method(cells, train, test)
                        rows.append(
                            {
                                "method": name,
                                "study": file.study,
                                "protocol": protocol,
                                "k": k,
                                "seed": seed,
                                "macro_f1": metrics.macro_f1(truth, called, min_cells=1),
                            }
                        )
    by_file = pd.DataFrame(rows)
    return by_file.groupby(["method", "protocol", "study", "k", "seed"]).mean().reset_index()


def print_table(scored: pd.DataFrame, methods: Mapping[str, BaselineMethod]) -> None:
    """Print mean macro-F1 over studies, and its standard deviation over seeds."""
    for protocol, part in scored.groupby("protocol"):
        studies, shots = ", ".join(sorted(set(part.study))), sorted(set(part.k))
        print(f"\n{protocol}: {studies}")
        print(
            f"{'macro-F1':<24}" + "".join(f"{f'{k} shots':>16}" for k in shots) + f"{'1 to 5':>10}"
        )
        for name in methods:
            by_seed = part[part.method == name].groupby(["k", "seed"]).macro_f1.mean()
            cells = [f"{by_seed[k].mean():.3f} sd {by_seed[k].std():.3f}" for k in shots]
            few = np.mean([by_seed[k].mean() for k in shots if k <= 5])
            print(f"{name:<24}" + "".join(f"{each:>16}" for each in cells) + f"{few:>10.3f}")


def main() -> None:
    """Print a table per protocol, and one JSON line."""
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), metavar="METHOD")
    parser.add_argument("--tune", nargs="+", default=[], choices=tuple(RECIPES), metavar="HEAD")
    given = parse(parser)
    files = validation_files(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small panels, and warnings of scanpy about tiny files
        model = load_embedder(given.model, states=bool(given.tune))
        methods = {name: METHODS[name] for name in given.methods or METHODS}
        methods |= {f"langcell, {kind}": with_tuned(kind) for kind in given.tune}
        scored = measure(
            files, model, Ontology.bundled(), methods, n_seeds=given.seeds, shots=given.shots
        )
    print(f"{given.model}, own labels, {len(files)} files, {given.seeds} seeds")
    print_table(scored, methods)
    means = scored.groupby(["protocol", "method", "k"]).macro_f1.mean().round(4)
    figures = means.reset_index().to_dict("records")
    print(json.dumps({"benchmark": "fewshot", "model": given.model, "figures": figures}))


if __name__ == "__main__":
    main()
