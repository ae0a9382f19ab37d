"""The cells of one training step, and what hands them out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from langcell.tokens.packed_cells import PackedCells
from pretrain.parallel.gather import World


@dataclass(frozen=True, kw_only=True, eq=False)
class StepCells:
    """Cells of a step in one process, not masked yet.

    Attributes
    ----------
    step
        Its number, from 0.
    tokens, second
        Ranked genes of each cell, and of the second views of the first ones; the latter is None
        where no loss reads it.
    whole
        Ranked genes of each cell as far as teachers read them; None without teachers.
    measured
        True where the gene counts as measured in the cell, shape (n_cells, n_genes).
    terms, aspects
        Type and aspect of each cell, as `CellTypes` numbers them, shape (n_cells,).
    all_terms, all_aspects
        Those of the cells of all processes, the same in each of them.
    linear
        Logits of the training types by the linear teacher, (n_cells, n_terms); None without one.
    """

    step: int
    tokens: PackedCells
    second: PackedCells | None
    whole: PackedCells | None
    measured: np.ndarray
    terms: np.ndarray
    aspects: np.ndarray
    all_terms: np.ndarray
    all_aspects: np.ndarray
    linear: Tensor | None = None


class CellSource(Protocol):
    """Hands out the cells of each step, the same ones after a resumption."""

    def steps(self, first: int, world: World) -> Iterator[StepCells]:
        """Yield the cells of this process for each step from the first on, without end."""

    def reference_cells(self, n_cells: int) -> list[np.ndarray]:
        """Return tokens of unmasked cells, drawn as those of a step are."""

    def state_after(self, step: int) -> dict[str, Any]:
        """Return what is needed to go on after a step, beside its number."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what `state_after` returned, before `steps` is called."""
