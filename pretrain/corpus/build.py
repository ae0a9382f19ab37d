"""Building a corpus: survey the inputs, tokenise their cells, gather them in shards."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langcell.runtime.progress import cell_progress
from langcell.tokens.token_corpus import Manifest
from pretrain.corpus.catalog import CATALOG, Catalog
from pretrain.corpus.inputs import find_inputs
from pretrain.corpus.merge import Layout, make_shard, plan_layout, write_manifest
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.pieces import combine_surveys, survey, tokenize
from pretrain.corpus.plan import Plan, begin_plan, read_catalog, read_plan
from pretrain.corpus.report import report_inputs, report_lines, write_report
from pretrain.corpus.workers import open_workers, run_jobs

_SAY_EVERY = 50  # inputs


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which share of the work to do: number `number`, from 1, of `of`."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"--part must be i/n with 1 <= i <= n, got {self.number}/{self.of}")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `i/n`.

        >>> Part.parse("2/8")
        Part(number=2, of=8)
        """
        number, separator, of = text.partition("/")
        if not (separator and number.isdigit() and of.isdigit()):
            raise ValueError(f"--part must be i/n, as 2/8; got {text!r}")
        return cls(number=int(number), of=int(of))


def build_corpus(
    folder: Path,
    given: Sequence[str],
    options: BuildOptions,
    *,
    n_workers: int = 1,
    dask: str = "",
    part: Part | None = None,
    overwrite: bool = False,
) -> Manifest | None:
    """Build a corpus, or go on with a build that was stopped.

    What is finished stays in `.build` in the folder until the corpus is whole, and is not done
    again. The result depends on inputs and options alone: not on how many workers there were, nor
    on how often they were stopped.

    Parameters
    ----------
    folder
        Where the corpus goes.
    given
        Files, folders, globs and URIs (`find_inputs`).
    options
        How to build.
    n_workers, dask
        As `open_workers`.
    part
        Do this share alone, for `merge_corpus` to end; all parts see one file system.
    overwrite
        Start anew, whatever the folder holds.

    Returns
    -------
    Manifest or None
        None after a part.

    Raises
    ------
    ValueError, OSError, ImportError
        If inputs, options or what is in the folder are not what they must be; one line.
    """
    inputs = find_inputs(given, options)
    plan = begin_plan(folder, inputs, options, overwrite=overwrite)
    try:
        with _told_how_to_go_on(), open_workers(n_workers, dask) as workers:
            _tokenize_all(plan, workers, part or Part())
            return None if part else _merge(plan, workers)
    except (ValueError, OSError):
        if part is None:  # other parts may be at work in the folder
            plan.forget_if_idle()
        raise


def merge_corpus(folder: Path, *, n_workers: int = 1, dask: str = "") -> Manifest:
    """Make a corpus of what the parts of a build left in a folder.

    Raises
    ------
    FileNotFoundError
        If there is no build, or a part of it is not finished.
    """
    plan = read_plan(folder)
    if not (plan.work / CATALOG).is_file():
        raise FileNotFoundError(f"{folder}: no part of the build has surveyed all inputs yet")
    with _told_how_to_go_on(), open_workers(n_workers, dask) as workers:
        return _merge(plan, workers)


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            "stopped by the user; the same command goes on where this one stopped"
        ) from stop


def _tokenize_all(plan: Plan, workers: Executor, part: Part) -> None:
    n = len(plan.inputs)
    # Own inputs first; then those that no other part has surveyed yet, as all must be known.
    order = sorted(range(n), key=lambda source: source % part.of != part.number - 1)
    n_done = 0

    def on_survey(n_cells: int) -> None:
        nonlocal n_done
        n_done += 1
        if n_done == n or n_done % _SAY_EVERY == 0:
            _say(f"surveyed {n_done} of {n} inputs")

    run_jobs(workers, survey, [(plan.folder, source) for source in order], on_survey)
    run_jobs(workers, combine_surveys, [(plan.folder,)])
    catalog = read_catalog(plan.folder)
    tasks = list(plan.tasks(catalog))[part.number - 1 :: part.of]
    sizes = [sum(piece.stop - piece.start for piece in task.pieces) for task in tasks]
    jobs = [(plan.folder, task) for task in tasks]
    _with_progress("tokenising", workers, tokenize, jobs, sum(sizes))


def _merge(plan: Plan, workers: Executor) -> Manifest:
    catalog = read_catalog(plan.folder)
    layout = plan_layout(plan, catalog)
    if layout.n_cells:
        jobs = [(plan.folder, number) for number in range(layout.n_shards)]
        _with_progress("writing shards", workers, make_shard, jobs, layout.n_cells)
    _report(plan, catalog, layout)
    if not layout.n_cells:
        raise ValueError(
            f"no cell of the {len(plan.inputs)} inputs is kept; {plan.folder / 'report.txt'} says why"
        )
    run_jobs(workers, write_manifest, [(plan.folder,)])
    shutil.rmtree(plan.work)
    return Manifest.read(plan.folder)


def _report(plan: Plan, catalog: Catalog, layout: Layout) -> None:
    reports = report_inputs(plan, catalog, layout)
    summary = {
        "genes": catalog.vocabulary.n_genes,
        "cell types": len(catalog.categories["term"]),
        "studies": len(catalog.categories["study"]),
        "texts": len(catalog.texts),
        "shards": layout.n_shards if layout.n_cells else 0,
    }
    write_report(plan.folder, reports, summary)
    for line in report_lines(reports, summary):
        _say(line)


def _with_progress(
    doing: str, workers: Executor, function: Any, jobs: Sequence[tuple[Any, ...]], n_cells: int
) -> None:
    n_done = 0
    with cell_progress(doing) as progress:

        def on_done(n: int) -> None:
            nonlocal n_done
            n_done += n
            progress(n_done, n_cells)

        progress(0, n_cells)
        run_jobs(workers, function, jobs, on_done)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
