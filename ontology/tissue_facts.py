"""Counts of the studies that found a cell type in a tissue, and its enrichment there."""

from collections.abc import Mapping
from functools import cache, cached_property
from importlib.resources import files

import numpy as np

from ontology.graph import Ontology

_PRIOR = 2.0  # pseudocount in studies; chosen on the validation studies


class TissueFacts:
    """Facts of the form "this study found this cell type in this tissue".

    A fact also holds for the ancestors in both ontologies: a cell type found in a part is found in
    the whole tissue, and a CD4 T cell counts as a T cell.

    Parameters
    ----------
    cell_types
        A Cell Ontology release.
    anatomy
        UBERON; by default the bundled release, whose descendants include parts and subtypes.
    facts
        (tissue id, cell type id) -> studies; by default `bundled_facts`.
    """

    def __init__(
        self,
        cell_types: Ontology,
        anatomy: Ontology | None = None,
        facts: Mapping[tuple[str, str], frozenset[str]] | None = None,
    ) -> None:
        self._cell_types = cell_types
        self._anatomy = anatomy or Ontology.bundled("UBERON")
        found: dict[tuple[str, str], set[int]] = {}
        for (tissue, cell_type), studies in (bundled_facts() if facts is None else facts).items():
            current = cell_types.current(cell_type)
            if current is not None:
                for study in studies:
                    found.setdefault((tissue, study), set()).add(cell_types.index[current])
        self._surveys = sorted(found)  # pairs (tissue, study)
        self._seen = np.zeros((len(self._surveys), len(cell_types.ids)), dtype=bool)
        for row, survey in enumerate(self._surveys):
            columns = sorted(found[survey])
            self._seen[row, cell_types.closure[columns].indices] = True

    def n_studies(self, tissues: frozenset[str]) -> np.ndarray:
        """Count the studies that found each cell type in any of the tissues or their parts.

        Returns
        -------
        int, shape (n_terms,), in the order of the ontology's ids; the count of the root is the
        number of studies of the tissues.
        """
        region = tissues.union(
            *(self._anatomy.descendants(each) for each in tissues if each in self._anatomy.index)
        )
        rows: dict[str, list[int]] = {}
        for row, (tissue, study) in enumerate(self._surveys):
            if tissue in region:
                rows.setdefault(study, []).append(row)
        counts = np.zeros(self._seen.shape[1], dtype=np.int64)
        for each in rows.values():
            counts += self._seen[each].any(axis=0)
        return counts

    def log_lift(self, tissues: frozenset[str]) -> np.ndarray:
        """Return the log enrichment of each cell type in some tissues.

        The ratio of a term is that of its parent times (n + 2) / (e + 2), where n studies of the
        tissue found the term and e studies are expected to, given the parent's count and the term's
        share of its parent over all tissues. An expected but absent type is thus counted once, not
        again for each subtype, and a term without studies has the ratio of its parents (their
        geometric mean).

        Returns
        -------
        Natural logarithm of the ratio, shape (n_terms,), 0 if nothing is known
        """
        ontology, found = self._cell_types, self.n_studies(tissues)
        lift = np.zeros(len(ontology.ids))
        for term_id in sorted(ontology.ids, key=ontology.depth):  # parents first
            row = ontology.index[term_id]
            parents = [ontology.index[each] for each in ontology.parents(term_id)]
            if not parents:
                continue
            share = self.prevalence[row] / np.maximum(self.prevalence[parents], 1e-12)
            expected = found[parents] * share
            steps = np.log((found[row] + _PRIOR) / (expected + _PRIOR))  # (n_parents,)
            lift[row] = np.mean(lift[parents] + steps)
        return lift

    @cached_property
    def prevalence(self) -> np.ndarray:
        """Share of all (tissue, study) pairs in which each type was found, shape (n_terms,)."""
        return self._seen.mean(axis=0) if len(self._seen) else np.zeros(self._seen.shape[1])


@cache
def bundled_facts() -> dict[tuple[str, str], frozenset[str]]:
    """Return (UBERON id, CL id) -> studies, read from ``ontology/data/tissue_cell_types.tsv``.

    The table was made from the training files of the bundled models only.
    """
    table = (files("ontology") / "data" / "tissue_cell_types.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return {(tissue, term): frozenset(studies.split(",")) for tissue, term, studies in rows}
