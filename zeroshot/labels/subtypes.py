"""Share the probability of coarse labels with their subtypes."""

from dataclasses import dataclass

import numpy as np

from langcell.runtime.compiled import compiled
from langcell.runtime.threads import over_slices
from ontology.graph import Ontology
from zeroshot.scores.ancestor_sums import LANES, add_from_ancestors, add_to_ancestors, load_lanes

SHARE = 0.25  # chosen on the validation studies, like the bundled models
_LEAST_BELOW = 1e-6  # total of the subtypes below which a label keeps all of its probability
_CELLS_PER_TASK = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Subtypes:
    """Ancestors of each candidate among the candidates, as a CSR matrix without values.

    The training data, like most studies, have coarse labels: a cell that resembles a "T cell" also
    is of some subtype. So `pass_down` moves a share of the probability of each label to its
    descendants, in proportion to their own probabilities; labels without descendants keep theirs.
    If the subtypes are about equally probable, the coarse label stays ahead of them.

    Attributes
    ----------
    indptr, ancestors
        `ancestors[indptr[i]:indptr[i + 1]]` are the proper ancestors of candidate i among the
        candidates, int32.
    """

    indptr: np.ndarray
    ancestors: np.ndarray

    @classmethod
    def among(cls, ids: tuple[str, ...], ontology: Ontology) -> "Subtypes":
        """Find the ancestors of each term among the given terms."""
        rows = [ontology.index[term_id] for term_id in ids]
        closure = ontology.closure[rows][:, rows].tocoo()
        proper = closure.row != closure.col
        terms, ancestors = closure.row[proper], closure.col[proper]
        order = np.lexsort((ancestors, terms))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(terms, minlength=len(ids)))])
        return cls(indptr=indptr.astype(np.int32), ancestors=ancestors[order].astype(np.int32))

    def pass_down(self, log_probabilities: np.ndarray, *, share: float = SHARE) -> np.ndarray:
        """Move a share of the probability of each label to its descendants.

        The result of a cell depends on its own row only; the sum of a row does not change.

        Parameters
        ----------
        log_probabilities
            Of all candidates, float32, shape (n_cells, n_candidates).
        share
            0 changes nothing; 1 leaves nothing to a label with descendants.

        Returns
        -------
        numpy.ndarray
            float32, shape (n_cells, n_candidates).
        """
        result = np.empty_like(log_probabilities)

        def pass_block(start: int, stop: int) -> None:
            own = log_probabilities[start:stop]
            factors = np.empty_like(own)
            _fill_factors(np.exp(own), self.indptr, self.ancestors, share, factors)
            result[start:stop] = own + np.log(factors)

        over_slices(pass_block, len(result), size=_CELLS_PER_TASK)
        return result


@compiled
def _fill_factors(
    probabilities: np.ndarray,
    indptr: np.ndarray,
    ancestors: np.ndarray,
    share: float,
    factors: np.ndarray,
) -> None:
    """Fill `factors` with new / old probability, float32, shape (n_cells, n_candidates)."""
    n_cells, n_candidates = probabilities.shape
    own = np.empty((n_candidates, LANES), np.float64)
    descendants, passed, factor = np.empty_like(own), np.empty_like(own), np.empty_like(own)
    for first in range(0, n_cells, LANES):
        n_loaded = load_lanes(probabilities, first, own)
        descendants[:] = 0.0
        add_to_ancestors(own, indptr, ancestors, descendants)
        for candidate in range(n_candidates):
            for lane in range(LANES):
                total = descendants[candidate, lane]
                has_subtypes = total > _LEAST_BELOW
                passed[candidate, lane] = (
                    share * own[candidate, lane] / total if has_subtypes else 0.0
                )
                factor[candidate, lane] = 1.0 - share if has_subtypes else 1.0
        add_from_ancestors(passed, indptr, ancestors, factor)
        for lane in range(n_loaded):
            for candidate in range(n_candidates):
                # With a share of 1 a factor may be 0: keep its logarithm finite in float32.
                factors[first + lane, candidate] = max(factor[candidate, lane], 1e-30)
