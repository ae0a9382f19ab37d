"""The cells of one training step, and the protocol of cell sources."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from langcell.tokens.packed_cells import PackedCells
from pretrain.parallel.gather import World


@dataclass(frozen=True, kw_only=True, eq=False)
class StepCells:
    """Cells of a step in one process, before masking.

    Attributes
    ----------
    step
        Step number, from 0.
    tokens, second
        Ranked genes of each cell, and of the second views of the first cells; the latter is None if
        no loss reads it.
    whole
        Ranked genes of each cell for the teachers; None without teachers.
    measured
        True where the gene counts as measured in the cell, shape (n_cells, n_genes).
    terms, aspects
        Type and aspect of each cell, as indices into `CellTypes`, shape (n_cells,).
    all_terms, all_aspects
        Types and aspects of the cells of all processes, the same in each process.
    linear
        Logits of the linear teacher over the training types, (n_cells, n_terms); None without one.
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
    """Source of the cells of each step, which can be resumed."""

    def steps(self, first: int, world: World) -> Iterator[StepCells]:
        """Yield the cells of this process for each step from `first` on, endlessly."""

    def reference_cells(self, n_cells: int) -> list[np.ndarray]:
        """Return the tokens of unmasked cells, drawn like those of a step."""

    def state_after(self, step: int) -> dict[str, Any]:
        """Return the state needed to resume after a step, beside its number."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_after` returned; call this before `steps`."""
