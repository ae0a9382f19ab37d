"""How far a long run over cells is, on stderr."""

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
    """Cells a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} cells/s" if task.speed else "")


@contextmanager
def cell_progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress over cells with rate and time left.

    On a terminal a bar that goes away when done; otherwise a plain line every ten seconds.

    Parameters
    ----------
    doing: one word for what is done to the cells, such as "annotating"

    Yields
    ------
    A function to call with the number of cells done so far and the number of all cells. Fewer done
    than before begin another pass over cells, whose rate is its own.
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
    begun: tuple[float, int] | None = None  # when, and what an interrupted run had done
    shown, before = 0.0, 0

    def show(done: int, n_cells: int) -> None:
        nonlocal begun, shown, before
        now = time.monotonic()
        if begun is None or done < before:
            begun, shown = (now, done), now
        before = done
        if now - shown < _SECONDS_BETWEEN_LINES or done == begun[1]:
            return
        shown = now
        rate = (done - begun[1]) / (now - begun[0])
        left = timedelta(seconds=round((n_cells - done) / rate))
        print(
            f"{doing}: {done:,} of {n_cells:,} cells, {rate:,.0f} cells/s, {left} left",
            file=sys.stderr,
            flush=True,
        )

    return show
