"""Progress of a run over cells, shown on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0


class _RateColumn(ProgressColumn):
    """Column with the rate in cells per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} cells/s" if task.speed else "")


@contextmanager
def cell_progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress over cells with rate and remaining time.

    On a terminal this is a bar that disappears at the end, otherwise a line every ten seconds.

    Parameters
    ----------
    doing: one word for the action, such as "annotating"

    Yields
    ------
    A function to call with the number of cells done so far and the total number of cells. A smaller
    number than before starts a new pass, with its own rate.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(doing)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=None)

        def show(done: int, n_cells: int) -> None:
            if done < progress.tasks[0].completed:
                progress.reset(task)
            progress.update(task, completed=done, total=n_cells)

        yield show


def _plain_lines(doing: str) -> Callable[[int, int], None]:
    start: tuple[float, int] | None = None  # time, and cells that a resumed run had done before
    shown, before = 0.0, 0

    def show(done: int, n_cells: int) -> None:
        nonlocal start, shown, before
        now = time.monotonic()
        if start is None or done < before:
            start, shown = (now, done), now
        before = done
        if now - shown < _SECONDS_BETWEEN_LINES or done == start[1]:
            return
        shown = now
        rate = (done - start[1]) / (now - start[0])
        left = timedelta(seconds=round((n_cells - done) / rate))
        print(
            f"{doing}: {done:,} of {n_cells:,} cells, {rate:,.0f} cells/s, {left} left",
            file=sys.stderr,
            flush=True,
        )

    return show
