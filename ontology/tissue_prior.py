"""How likely a tissue makes a cell type, before any gene is looked at."""

from collections.abc import Sequence

import numpy as np

from ontology.graph import Ontology
from ontology.tissue_facts import TissueFacts
from ontology.tissues import TissueMap

# Bounds of the log-prior: a tissue speaks against a type more firmly than for it, as studies name
# what they look for. Chosen on the validation studies, as is the strength.
LOWEST, HIGHEST = -2.0, 1.0
_RULED_OUT = -np.log(2)  # found less than half as often as expected


class TissuePrior:
    """Weighs cell types by what is known of a tissue.

    Two sources meet. What studies found there (`TissueFacts.log_lift`, of the tissue and of the
    organs that hold it), cut off at -2 and 1. And the organs that a type's term names or, of an
    .obo file, is related to (`TissueMap.organs`): one of this tissue's lifts the log-prior to at
    least 0; others alone set it to -2, unless a study found the type here all the same.

    Parameters
    ----------
    cell_types
        A Cell Ontology release; ids are those of its terms.
    places
        Binds types to organs, maybe from another release; by default of `cell_types` itself.
    facts
        What studies found; by default the bundled facts.
    """

    def __init__(
        self,
        cell_types: Ontology,
        places: TissueMap | None = None,
        facts: TissueFacts | None = None,
    ) -> None:
        self._cell_types = cell_types
        self.places = places or TissueMap(cell_types)
        self._facts = facts or TissueFacts(cell_types)
        self._organs: dict[str, frozenset[str]] = {}

    def log_prior(self, tissue: str, term_ids: Sequence[str]) -> np.ndarray:
        """Return the log-prior of each cell type in a tissue.

        Parameters
        ----------
        tissue
            An UBERON id.
        term_ids
            Cell Ontology ids; '' is none, and has a log-prior of 0.

        Returns
        -------
        float64, between `LOWEST` and `HIGHEST`, shape (n_types,)
        """
        here = self.places.organs_of_tissue(tissue)
        region = here | {tissue}
        lift = np.clip(self._facts.log_lift(region), LOWEST, HIGHEST)
        found = self._facts.n_studies(region)
        binds = bool(here) or self.places.pervades(tissue)  # "mucosa" is in no one organ
        prior = np.zeros(len(term_ids))
        for place, term_id in enumerate(term_ids):
            if not term_id:
                continue
            row = self._cell_types.index[term_id]
            prior[place] = lift[row]
            organs = self._organs_of(term_id) if binds else frozenset()
            if organs & here:
                prior[place] = max(lift[row], 0.0)
            elif organs and not found[row]:
                prior[place] = LOWEST
        return prior

    def commonness(self, term_ids: Sequence[str]) -> np.ndarray:
        """Return how common each type is over all tissues, 0 to 1, shape (n_types,)."""
        rows = [self._cell_types.index[each] if each else -1 for each in term_ids]
        return np.where(np.array(rows) >= 0, self._facts.commonness[rows], 0.0)

    def _organs_of(self, term_id: str) -> frozenset[str]:
        known = self.places.cell_types
        if term_id not in self._organs:
            current = known.current(term_id)  # of another release than the ids are, perhaps
            self._organs[term_id] = self.places.organs(current) if current else frozenset()
        return self._organs[term_id]


def rules_out(log_prior: np.ndarray) -> np.ndarray:
    """Tell which types a tissue is taken not to hold: those found less than half as often."""
    return log_prior < _RULED_OUT
