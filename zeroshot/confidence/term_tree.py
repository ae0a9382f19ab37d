"""Terms for back-off: the candidates and their ancestors."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ontology.candidates import NEVER_CALLED, ROOT, groupings
from ontology.graph import Ontology
from zeroshot.labels.candidates import CandidateSet, candidate_key


@dataclass(frozen=True, kw_only=True, eq=False)
class TermTree:
    """Candidates and all their ancestors: the possible calls after back-off.

    Attributes
    ----------
    ids: Cell Ontology id of each term, sorted; '' for free text, which comes last
    names: of the same terms
    depths: edges on the longest path from the root, int32, shape (n_terms,); 1 for free text
    is_callable: False for the root, for terms that are too general for a call, and for groupings
        that the user did not choose, shape (n_terms,)
    candidate_terms: row of each candidate among the terms, int32, shape (n_candidates,)
    lineages: 1 for each candidate itself and its ancestors, shape (n_candidates, n_terms)
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    depths: np.ndarray
    is_callable: np.ndarray
    candidate_terms: np.ndarray
    lineages: sparse.csr_matrix

    @property
    def keys(self) -> tuple[str, ...]:
        """Identifier of each term: its Cell Ontology id, or "text: <words>"."""
        return tuple(map(candidate_key, self.ids, self.names))

    @property
    def n_depths(self) -> int:
        """One more than the depth of the deepest term."""
        return int(self.depths.max()) + 1

    @classmethod
    def of(cls, candidates: CandidateSet, ontology: Ontology) -> "TermTree":
        """Build the tree of candidates; free text is a child of the root.

        Examples
        --------
        >>> from zeroshot.labels.candidates import own_candidates
        >>> ontology = Ontology.bundled()
        >>> candidates = own_candidates(["B cell", "T cell"], ontology)
        >>> "lymphocyte" in TermTree.of(candidates, ontology).names
        True
        """
        is_term = np.array([bool(term_id) for term_id in candidates.ids])
        rows = np.array([ontology.index[each] for each in candidates.ids if each], dtype=np.int64)
        closure = ontology.closure[rows].tocoo()
        columns = np.union1d(closure.col, [ontology.index[ROOT]]).astype(np.int64)
        ids = [ontology.ids[column] for column in columns]
        free = np.flatnonzero(~is_term)
        free_rows = np.arange(len(ids), len(ids) + len(free))
        candidate_terms = np.empty(len(candidates), dtype=np.int32)
        candidate_terms[is_term] = np.searchsorted(columns, rows)
        candidate_terms[free] = free_rows
        root = ids.index(ROOT)
        descendants = np.concatenate([np.flatnonzero(is_term)[closure.row], free, free])
        ancestors = np.concatenate(
            [np.searchsorted(columns, closure.col), free_rows, np.full(len(free), root)]
        )
        shape = (len(candidates), len(ids) + len(free))
        never = NEVER_CALLED | (groupings().keys() - (_chosen(candidates)))
        return cls(
            ids=(*ids, *("" for _ in free)),
            names=(
                *(ontology.terms[term_id].name for term_id in ids),
                *(candidates.names[row] for row in free),
            ),
            depths=np.array([*map(ontology.depth, ids), *(1 for _ in free)], dtype=np.int32),
            is_callable=np.array([*(each not in never for each in ids), *(True for _ in free)]),
            candidate_terms=candidate_terms,
            lineages=sparse.csr_matrix(
                (np.ones(len(descendants)), (descendants, ancestors)), shape=shape
            ),
        )


def _chosen(candidates: CandidateSet) -> frozenset[str]:
    return frozenset(candidates.ids) if candidates.is_choice else frozenset()
