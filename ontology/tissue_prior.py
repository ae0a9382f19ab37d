"""Log-prior of cell types given the tissue, independent of gene expression."""

from collections.abc import Sequence

import numpy as np

from ontology.graph import Ontology
from ontology.tissue_facts import TissueFacts
from ontology.tissues import TissueMap

# Bounds of the log-prior. The lower bound is larger in size, because studies report the types that
# they look for. Chosen on the validation studies, as is the strength.
LOWEST, HIGHEST = -2.0, 1.0
_RULED_OUT = -np.log(2)  # found less than half as often as expected


class TissuePrior:
    """Log-prior of cell types in a tissue.

    It combines two sources. The first is the enrichment found by studies (`TissueFacts.log_lift`)
    for the tissue and the organs that contain it, clipped to [-2, 1]. The second is the organs of a
    cell type (`TissueMap.organs`), from its term or the relations of an .obo file: if one of them
    contains this tissue, the log-prior is at least 0; if all are other organs, it is -2, unless a
    study found the type in this tissue.

    Parameters
    ----------
    cell_types
        A Cell Ontology release; term ids are ids of this release.
    tissue_map
        Organs of cell types, possibly from another release; by default from `cell_types`.
    facts
        Facts from studies; by default the bundled facts.
    """

    def __init__(
        self,
        cell_types: Ontology,
        tissue_map: TissueMap | None = None,
        facts: TissueFacts | None = None,
    ) -> None:
        self._cell_types = cell_types
        self.tissue_map = tissue_map or TissueMap(cell_types)
        self._facts = facts or TissueFacts(cell_types)
        self._organs: dict[str, frozenset[str]] = {}

    def log_prior(self, tissue: str, term_ids: Sequence[str]) -> np.ndarray:
        """Return the log-prior of each cell type in a tissue.

        Parameters
        ----------
        tissue
            An UBERON id.
        term_ids
            Cell Ontology ids; '' has a log-prior of 0.

        Returns
        -------
        float64, between `LOWEST` and `HIGHEST`, shape (n_types,)
        """
        here = self.tissue_map.organs_of_tissue(tissue)
        region = here | {tissue}
        lift = np.clip(self._facts.log_lift(region), LOWEST, HIGHEST)
        found = self._facts.n_studies(region)
        has_organs = bool(here) or self.tissue_map.pervades(
            tissue
        )  # "mucosa" is in no single organ
        prior = np.zeros(len(term_ids))
        for place, term_id in enumerate(term_ids):
            if not term_id:
                continue
            row = self._cell_types.index[term_id]
            prior[place] = lift[row]
            organs = self._organs_of(term_id) if has_organs else frozenset()
            if organs & here:
                prior[place] = max(lift[row], 0.0)
            elif organs and not found[row]:
                prior[place] = LOWEST
        return prior

    def prevalence(self, term_ids: Sequence[str]) -> np.ndarray:
        """Return the prevalence of each type over all tissues, 0 to 1, shape (n_types,)."""
        rows = [self._cell_types.index[each] if each else -1 for each in term_ids]
        return np.where(np.array(rows) >= 0, self._facts.prevalence[rows], 0.0)

    def _organs_of(self, term_id: str) -> frozenset[str]:
        known = self.tissue_map.cell_types
        if term_id not in self._organs:
            current = known.current(term_id)  # the id may be from another release
            self._organs[term_id] = self.tissue_map.organs(current) if current else frozenset()
        return self._organs[term_id]


def rules_out(log_prior: np.ndarray) -> np.ndarray:
    """Tell which types are ruled out: those found less than half as often as expected."""
    return log_prior < _RULED_OUT
