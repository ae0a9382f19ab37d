"""Build a corpus: survey the inputs, tokenise their cells, write them to shards."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langcell.runtime.parameter_names import option
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

_LOG_EVERY = 50  # inputs


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the work: number `number`, from 1, of `of`."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(
                f"{option('part')} must be i/n with 1 <= i <= n, got {self.number}/{self.of}"
            )

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse `i/n`.

        >>> Part.parse("2/8")
        Part(number=2, of=8)
        """
        number, separator, of = text.partition("/")
        if not (separator and number.isdigit() and of.isdigit()):
            raise ValueError(f"{option('part')} must be i/n, as 2/8; got {text!r}")
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
    """Build a corpus, or resume a build that was stopped.

    Finished work is kept in `.build` in the folder until the corpus is complete, and is not
    repeated. The result depends only on inputs and options, not on the number of workers or on
    interruptions.

    Parameters
    ----------
    folder
        Output folder.
    given
        Files, folders, globs and URIs (`find_inputs`).
    options
        Options of the build.
    n_workers, dask
        As in `open_workers`.
    part
        Do only this part; `merge_corpus` finishes. All parts need the same file system.
    overwrite
        Delete what the folder holds and start over.

    Returns
    -------
    Manifest or None
        None after a part.

    Raises
    ------
    ValueError, OSError, ImportError
        If inputs, options or the content of the folder are invalid; one line.
    """
    inputs = find_inputs(given, options)
    plan = begin_plan(folder, inputs, options, overwrite=overwrite)
    try:
        with _resume_hint(), open_workers(n_workers, dask) as workers:
            _tokenize_all(plan, workers, part or Part())
            return None if part else _merge(plan, workers)
    except (ValueError, OSError):
        if part is None:  # other parts may be running in the folder
            plan.remove_if_idle()
        raise


def merge_corpus(folder: Path, *, n_workers: int = 1, dask: str = "") -> Manifest:
    """Merge the parts of a build into a corpus.

    Raises
    ------
    FileNotFoundError
        If there is no build, or a part is not finished.
    """
    plan = read_plan(folder)
    if not (plan.work / CATALOG).is_file():
        raise FileNotFoundError(
            f"{folder}: no part of the build has surveyed all inputs yet; finish the parts first"
        )
    with _resume_hint(), open_workers(n_workers, dask) as workers:
        return _merge(plan, workers)


@contextmanager
def _resume_hint() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            "stopped by the user; run the same command again to resume"
        ) from stop


def _tokenize_all(plan: Plan, workers: Executor, part: Part) -> None:
    n = len(plan.inputs)
    # Own inputs first, then those that no other part has surveyed yet, as all are needed.
    order = sorted(range(n), key=lambda source: source % part.of != part.number - 1)
    n_done = 0

    def on_survey(n_cells: int) -> None:
        nonlocal n_done
        n_done += 1
        if n_done == n or n_done % _LOG_EVERY == 0:
            _log(f"surveyed {n_done} of {n} inputs")

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
            f"no cell of the {len(plan.inputs)} inputs is kept; see {plan.folder / 'report.txt'}"
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
        _log(line)


def _with_progress(
    label: str, workers: Executor, function: Any, jobs: Sequence[tuple[Any, ...]], n_cells: int
) -> None:
    n_done = 0
    with cell_progress(label) as progress:

        def on_done(n: int) -> None:
            nonlocal n_done
            n_done += n
            progress(n_done, n_cells)

        progress(0, n_cells)
        run_jobs(workers, function, jobs, on_done)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
