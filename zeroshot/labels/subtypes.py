"""What a coarse label's probability says of its subtypes."""

from dataclasses import dataclass

import numpy as np

from langcell.runtime.compiled import compiled
from langcell.runtime.threads import over_slices
from ontology.graph import Ontology
from zeroshot.scores.ancestor_sums import LANES, add_from_ancestors, add_to_ancestors, load_lanes

SHARE = 0.25  # chosen on the validation studies, as the bundled models
_LEAST_BELOW = 1e-6  # subtypes that hold less than this are no answer to which of them it is
_CELLS_PER_TASK = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Subtypes:
    """Which candidates lie below which: rows of a CSR matrix without values.

    Authors label coarsely, and so do the training data: a cell that looks like a "T cell" is of
    some subtype all the same. So a share of each label's probability passes to the labels below it,
    in proportion to what they hold; labels with none below keep theirs. Where the subtypes cannot
    be told apart, or none looks likely beside its siblings, the coarse label stays ahead.

    Attributes
    ----------
    pointers, above
        Proper ancestors of candidate i among the candidates are
        `above[pointers[i]:pointers[i + 1]]`, int32.
    """

    pointers: np.ndarray
    above: np.ndarray

    @classmethod
    def among(cls, ids: tuple[str, ...], ontology: Ontology) -> "Subtypes":
        """Find the ancestors of each term among terms of an ontology."""
        rows = [ontology.index[term_id] for term_id in ids]
        closure = ontology.closure[rows][:, rows].tocoo()
        proper = closure.row != closure.col
        below, above = closure.row[proper], closure.col[proper]
        order = np.lexsort((above, below))
        pointers = np.concatenate([[0], np.cumsum(np.bincount(below, minlength=len(ids)))])
        return cls(pointers=pointers.astype(np.int32), above=above[order].astype(np.int32))

    def pass_down(self, log_probabilities: np.ndarray, *, share: float = SHARE) -> np.ndarray:
        """Return log-probabilities after each label has passed on a share of its own.

        A cell's result depends on its own row alone; rows sum to what they did.

        Parameters
        ----------
        log_probabilities
            Of all candidates, float32, shape (n_cells, n_candidates).
        share
            0 changes nothing, 1 leaves nothing with a label that has others below it.

        Returns
        -------
        numpy.ndarray
            float32, shape (n_cells, n_candidates).
        """
        passed = np.empty_like(log_probabilities)

        def pass_some(start: int, stop: int) -> None:
            own = log_probabilities[start:stop]
            factors = np.empty_like(own)
            _grow(np.exp(own), self.pointers, self.above, share, factors)
            passed[start:stop] = own + np.log(factors)

        over_slices(pass_some, len(passed), size=_CELLS_PER_TASK)
        return passed


@compiled
def _grow(
    probabilities: np.ndarray,
    pointers: np.ndarray,
    above: np.ndarray,
    share: float,
    factors: np.ndarray,
) -> None:
    """Fill in by what factor each probability grows, float32, shape (n_cells, n_candidates)."""
    n_cells, n_candidates = probabilities.shape
    own = np.empty((n_candidates, LANES), np.float64)
    below, given, grown = np.empty_like(own), np.empty_like(own), np.empty_like(own)
    for first in range(0, n_cells, LANES):
        n_loaded = load_lanes(probabilities, first, own)
        below[:] = 0.0
        add_to_ancestors(own, pointers, above, below)
        for candidate in range(n_candidates):
            for lane in range(LANES):
                held = below[candidate, lane]
                has_subtypes = held > _LEAST_BELOW
                given[candidate, lane] = (
                    share * own[candidate, lane] / held if has_subtypes else 0.0
                )
                grown[candidate, lane] = 1.0 - share if has_subtypes else 1.0
        add_from_ancestors(given, pointers, above, grown)
        for lane in range(n_loaded):
            for candidate in range(n_candidates):
                # With a share of 1 a label may keep nothing: the least that float32 holds.
                factors[first + lane, candidate] = max(grown[candidate, lane], 1e-30)
