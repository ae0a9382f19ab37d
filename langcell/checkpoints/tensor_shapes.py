"""Check that weights fit the configuration of their checkpoint."""

from collections.abc import Mapping
from typing import Protocol


class Shaped(Protocol):
    """A torch tensor or a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each dimension."""
        ...


def check_tensors(
    tensors: Mapping[str, Shaped], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise if tensors are missing, unknown or of the wrong shape.

    Raises
    ------
    ValueError
        If `tensors` does not have exactly the names and shapes of `shapes`.
    """
    problems = []
    for word, names in (
        ("missing", sorted(shapes.keys() - tensors.keys())),
        ("unknown", sorted(tensors.keys() - shapes.keys())),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{word} {', '.join(names[:3])}{more}")
    for name in sorted(shapes.keys() & tensors.keys()):
        got = tuple(tensors[name].shape)
        if got != tuple(shapes[name]):
            problems.append(f"{name} has shape {got}, expected {tuple(shapes[name])}")
    if problems:
        raise ValueError(f"{where} does not fit its config.json: {'; '.join(problems[:4])}")
