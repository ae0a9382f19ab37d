"""Suites of the arena: tasks and methods of `--suite quick` and `--suite full`.

`quick` samples 200 labelled cells per validation file and 3,000 training rows for the baselines,
leaves out the slowest methods, and skips `robustness` for baselines, which would have to be fitted
again for each change. `full` runs everything. Without the corpus both score models on the blood cells
in scanpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anndata

from benchmarks import demo
from benchmarks.accuracy.fewshot import METHODS as SHOT_METHODS
from benchmarks.arena.cells import CellFiles, CellTask
from benchmarks.arena.fewshot import FewShotTask
from benchmarks.arena.gene_lists import MarkerListTask
from benchmarks.arena.leaks import CellLeaks, ListLeaks
from benchmarks.arena.methods import (
    BASELINE,
    FEW_SHOT,
    MODEL,
    baselines,
    few_shot_methods,
    list_methods,
    models,
)
from benchmarks.arena.puzzles import PuzzleFileTask, PuzzleTask
from benchmarks.arena.results import Method, Task
from benchmarks.arena.retrieval import RetrievalTask
from benchmarks.arena.robustness import RobustnessTask
from benchmarks.arena.run import Suite
from benchmarks.arena.unseen import UnseenTask
from benchmarks.baselines.baseline import TrainingSplit
from benchmarks.baselines.methods import METHODS
from benchmarks.data.labelled_samples import donor_column, read_own_file, sample_file
from benchmarks.data.marker_lists import read_marker_lists
from benchmarks.data.studies import LabelledFile, read_validation_files
from benchmarks.data.training_cells import bundled_recipe
from langcell.checkpoints.checkpoint import list_bundled_models
from langcell.counts.scale import Scale
from langcell.model.embedder import load_embedder
from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.annotation.text_states import cache_folder

_LISTS = Path("markers") / "gptcelltype.csv"
_SHOT_MODEL = "mini-fast"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sample sizes of a suite."""

    n_cells: int | None  # per file; None for all
    n_rows: int  # of the training split, for baselines
    n_puzzles: int  # per size and study
    shots: tuple[int, ...]
    n_seeds: int  # of few-shot draws
    shot_methods: tuple[str, ...]
    baselines: tuple[str, ...]
    skipped: frozenset[tuple[str, str]] = frozenset()


SIZES = {
    "quick": Size(
        n_cells=200,
        n_rows=3_000,
        n_puzzles=50,
        shots=(1, 5),
        n_seeds=2,
        shot_methods=("langcell, auto", "langcell, prototype", "logistic, PCA", "kNN, PCA"),
        baselines=("pca-knn", "logistic", "markers"),
        skipped=frozenset({(BASELINE, RobustnessTask.name)}),
    ),
    "full": Size(
        n_cells=None,
        n_rows=12_000,
        n_puzzles=200,
        shots=(1, 3, 5, 9),
        n_seeds=5,
        shot_methods=tuple(SHOT_METHODS),
        baselines=tuple(METHODS),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs of a run.

    Attributes
    ----------
    corpus: folder with manifest.tsv, which may be missing
    folder: folder of the run, for samples
    models: names of langcell models; empty: all bundled models
    own: a user's labelled files, instead of the validation studies
    lists, puzzles: a table of marker lists, and a file of puzzles
    others: further methods, such as language models
    """

    corpus: Path
    folder: Path
    models: tuple[str, ...] = ()
    own: tuple[LabelledFile, ...] = ()
    lists: Path | None = None
    puzzles: Path | None = None
    device: str = "cpu"
    others: tuple[Method, ...] = ()


def build_suite(name: str, inputs: Inputs, ontology: Ontology) -> Suite:
    """Build the tasks and methods of a suite; nothing is written before all inputs are read.

    Raises
    ------
    ValueError, OSError
        If the suite is unknown, an input cannot be read, or the folder is a file.
    """
    if name not in SIZES:
        raise ValueError(f"unknown suite {name!r}; known: {', '.join(SIZES)}")
    if inputs.folder.is_file():
        raise NotADirectoryError(
            f"cannot write to {inputs.folder}: it is a file; pass a folder as {option('folder', flag='--out')}"
        )
    size = SIZES[name]
    has_corpus = (inputs.corpus / "manifest.tsv").is_file()
    split = TrainingSplit(bundled_recipe(inputs.corpus), ontology, n_rows=size.n_rows)
    methods, left_out = _methods(inputs, size, split, has_corpus=has_corpus)
    tasks = _list_tasks(inputs, ontology, methods)
    puzzles = [] if inputs.puzzles is None else [PuzzleFileTask(inputs.puzzles)]
    # Writes samples, so inputs that may be invalid are read before.
    files = _files(inputs, size, ontology, has_corpus=has_corpus)
    cells = CellFiles.of(files, ontology, by_donor=_donors(inputs.own))
    tasks += _cell_tasks(cells, size)
    if has_corpus and not inputs.own:
        tasks.append(UnseenTask(cells, frozenset(split.term_counts)))
    tasks += puzzles
    return Suite(
        name=name,
        tasks=tuple(tasks),
        methods=tuple(_in_order([*methods, *inputs.others])),
        skipped=size.skipped,
        left_out=tuple(left_out),
    )


def _methods(
    inputs: Inputs, size: Size, split: TrainingSplit, *, has_corpus: bool
) -> tuple[list[Method], list[str]]:
    """Return all methods but those of a table of lists, and a message for each one left out."""
    names = inputs.models or list_bundled_models()
    found = models(names, inputs.corpus, split.ontology, inputs.device)
    found += few_shot_methods(size.shot_methods)
    if has_corpus:
        fitted, left_out = baselines(
            size.baselines, split, inputs.corpus, cache_folder() / "baselines"
        )
        return found + fitted, left_out
    return found, [
        f"validation studies, marker lists and baselines: {inputs.corpus / 'manifest.tsv'} is missing; "
        f"pass the folder of corpus/ as {option('corpus', flag='--shared')}"
    ]


def own_files(
    paths: Sequence[Path], label_key: str, scale: Scale, ontology: Ontology
) -> tuple[LabelledFile, ...]:
    """Read a user's labelled files; see `benchmarks.data.labelled_samples.read_own_file`."""
    return tuple(read_own_file(path, label_key, scale, ontology) for path in paths)


def _files(
    inputs: Inputs, size: Size, ontology: Ontology, *, has_corpus: bool
) -> list[LabelledFile]:
    if inputs.own:
        return list(inputs.own)
    samples = inputs.folder / "samples"
    if not has_corpus:
        file = read_own_file(_demo_file(samples), demo.TRUTH, "log1p", ontology)
        return [replace(file, study="Zheng 2017")]
    files = read_validation_files(inputs.corpus)
    if size.n_cells is None:
        return files
    return [sample_file(file, size.n_cells, samples) for file in files]


def _demo_file(folder: Path) -> Path:
    """Write the blood cells of scanpy with log1p values of all genes; return the path."""
    path = folder / "blood.h5ad"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        whole = anndata.read_h5ad(demo.write_input(folder))
        with replaced_file(path) as temporary:
            whole.raw.to_adata().write_h5ad(temporary)
    return path


def _donors(own: Sequence[LabelledFile]) -> str | None:
    """Return the donor column of a single file, whose units are donors instead of studies."""
    return donor_column(own[0].path) if len(own) == 1 else None


def _list_tasks(inputs: Inputs, ontology: Ontology, methods: list[Method]) -> list[Task]:
    """Return the task of marker lists, if there is a table, and append its methods."""
    path = inputs.lists or inputs.corpus / _LISTS
    if inputs.lists is None and (inputs.own or not path.is_file()):
        return []
    lists = read_marker_lists(path, ontology)
    methods += list_methods(lists, ontology)
    return [MarkerListTask(lists, ontology, ListLeaks())]


def _cell_tasks(cells: CellFiles, size: Size) -> list[Task]:
    leaks = CellLeaks()
    return [
        CellTask(cells, leaks),
        PuzzleTask(cells, leaks, n_puzzles=size.n_puzzles),
        RetrievalTask(cells, leaks),
        RobustnessTask(cells, leaks),
        FewShotTask(cells, load_embedder(_SHOT_MODEL), shots=size.shots, n_seeds=size.n_seeds),
    ]


def _in_order(methods: Sequence[Method]) -> list[Method]:
    """Sort methods: models, few-shot methods, then the others in their order."""
    kinds = (MODEL, FEW_SHOT)
    return sorted(methods, key=lambda each: kinds.index(each.kind) if each.kind in kinds else 2)
