"""Compare two runs of the arena."""

from dataclasses import dataclass

from benchmarks.arena.result_card import ResultCard, TaskFacts, table


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The main score of a method on a task, in two runs.

    Attributes
    ----------
    is_same_data: True if the digest of the task is the same in both runs
    """

    task: str
    method: str
    figure: str
    before: float
    after: float
    is_same_data: bool


def compare_cards(before: ResultCard, after: ResultCard) -> list[Difference]:
    """Return the differences of scores that both runs have, in the order of the second.

    Raises
    ------
    ValueError
        If they have no method and task in common.
    """
    earlier = {task.name: task for task in before.tasks}
    found = []
    for task in after.tasks:
        other = earlier.get(task.name)
        if other is None or other.figures[0] != task.figures[0]:
            continue
        for name in after.kinds:
            values = [_main(card, of, name) for card, of in ((before, other), (after, task))]
            if values[0] is not None and values[1] is not None:
                found.append(
                    Difference(
                        task=task.name,
                        method=name,
                        figure=task.figures[0],
                        before=values[0],
                        after=values[1],
                        is_same_data=other.digest == task.digest,
                    )
                )
    if not found:
        raise ValueError(
            "the two runs have no method and task in common, so nothing can be compared"
        )
    return found


def comparison(found: list[Difference]) -> str:
    """Format differences as a table."""
    rows = [
        [
            each.task + ("" if each.is_same_data else " (other data)"),
            each.method,
            each.figure,
            f"{each.before:.3f}",
            f"{each.after:.3f}",
            f"{each.after - each.before:+.3f}",
        ]
        for each in found
    ]
    return table(["task", "method", "figure", "before", "after", "difference"], rows)


def _main(card: ResultCard, task: TaskFacts, method: str) -> float | None:
    result = card.result(task, method)
    figure = result.figure(task.figures[0], by_row=task.by_row) if result else None
    return figure.mean if figure else None
