"""Leaderboard of a run of the arena: a self-contained HTML file with plots."""

from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.arena.result_card import LEAK, SHOWN, ResultCard, TaskFacts, leak_line
from benchmarks.arena.results import Figure, Result
from zeroshot.plots.panels import INK, PALETTE, new_figure, shorten
from zeroshot.report.data_uri import Picture, svg_uri

_KIND_COLOURS = ("model", "few-shot", "baseline", "recorded", "language model")
_NAME_LENGTH = 28


@dataclass(frozen=True, kw_only=True)
class Board:
    """A task with its rows, best first, and a plot of their main score."""

    task: TaskFacts
    names: tuple[str, ...]
    rows: tuple["Row", ...]
    picture: Picture


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method in a task: its displayed scores and notes."""

    name: str
    kind: str
    leaks: bool
    main: Figure
    figures: tuple[Figure | None, ...]
    seconds: float
    notes: tuple[str, ...]


def render_leaderboard(card: ResultCard) -> str:
    """Render a card as HTML."""
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    boards = [_board(card, task) for task in card.tasks if card.ranked(task)]
    by_task = {board.task.name: {row.name: row for row in board.rows} for board in boards}
    return environment.get_template("leaderboard.html.j2").render(
        card=card, boards=boards, by_task=by_task, leak=LEAK
    )


def _board(card: ResultCard, task: TaskFacts) -> Board:
    names = task.figures[:SHOWN]
    rows = []
    for result, main in card.ranked(task):
        line = leak_line(result)
        rows.append(
            Row(
                name=result.method,
                kind=card.kinds[result.method],
                leaks=result.leaks,
                main=main,
                figures=tuple(result.figure(each, by_row=task.by_row) for each in names),
                seconds=result.seconds,
                notes=(*result.notes, *((f"{LEAK} {line}",) if line else ())),
            )
        )
    return Board(task=task, names=names, rows=tuple(rows), picture=_picture(card, task))


def _picture(card: ResultCard, task: TaskFacts) -> Picture:
    """Plot the main score with its interval, hollow if there are leaks."""
    ranked = card.ranked(task)
    figure = new_figure(6.4, 0.7 + 0.24 * len(ranked))
    axes = figure.subplots()
    for place, (result, main) in enumerate(ranked):
        colour = PALETTE[_KIND_COLOURS.index(card.kinds[result.method])]
        if main.low is not None and main.high is not None:
            axes.plot([main.low, main.high], [place, place], color=colour, linewidth=1.2)
        face = "white" if result.leaks else colour
        axes.plot(main.mean, place, "o", color=colour, markerfacecolor=face, markersize=5)
    axes.set_yticks(np.arange(len(ranked)), [_shown(result) for result, _ in ranked])
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(task.figures[0], color=INK, fontsize=8)
    values = "; ".join(f"{result.method} {main.mean:.3f}" for result, main in ranked)
    return Picture(
        source=svg_uri(figure),
        title=task.name,
        alt=f"{task.figures[0]} of {task.name}: {values}",
        caption="Lines: 95 % bootstrap intervals. Hollow: may know some of the data.",
    )


def _shown(result: Result) -> str:
    return shorten(result.method, _NAME_LENGTH)
