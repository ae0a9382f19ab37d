"""The ontology graph: ancestors, descendants, depth, common ancestors and distances."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from ontology.bundled import read_bundled
from ontology.term import OntologySource, Term


class Ontology:
    """The terms of one ontology release and the directed acyclic graph of their parents.

    "Current" terms are those that are not obsolete; only they are in the graph.

    Parameters
    ----------
    source
        The source as read. Parents without a term of their own are left out of the graph.

    Attributes
    ----------
    name, release
        Name of the ontology, and its release as a date or version ("2026-03-26").
    relations
        The relations that the source distinguishes: ("is_a", "part_of", ...) for an OBO file,
        ("is_a or part_of",) for a bundled release, which merges them.
    terms
        All terms by id, including obsolete ones.
    ids
        Ids of the current terms, sorted: the order of rows and columns of ``closure``.

    Raises
    ------
    ValueError
        If a term is its own ancestor.
    """

    def __init__(self, source: OntologySource) -> None:
        self.name = source.name
        self.release = source.release
        self.relations = source.relations
        self.terms: Mapping[str, Term] = source.terms
        self.ids = tuple(sorted(key for key, term in source.terms.items() if not term.is_obsolete))
        self.index: Mapping[str, int] = {term_id: i for i, term_id in enumerate(self.ids)}
        self._parents = {
            term_id: tuple(parent for parent in self.terms[term_id].parents if parent in self.index)
            for term_id in self.ids
        }
        self._children: dict[str, list[str]] = {term_id: [] for term_id in self.ids}
        for term_id in self.ids:
            for parent in self._parents[term_id]:
                self._children[parent].append(term_id)
        self._order = self._sort_roots_first()

    @classmethod
    def bundled(cls, prefix: str = "CL") -> "Ontology":
        """Return the release in the installed cellxgene-ontology-guide; cached.

        >>> Ontology.bundled().terms["CL:0000236"].name
        'B cell'
        """
        return _bundled(prefix)

    @classmethod
    def from_obo(cls, path: str | Path) -> "Ontology":
        """Read an .obo or .obo.gz file; raise as `ontology.obo.read_obo`."""
        from ontology.obo import read_obo

        return cls(read_obo(path))

    def parents(self, term_id: str) -> tuple[str, ...]:
        """Return the parents of a current term, sorted."""
        return self._parents[self.check(term_id)]

    def children(self, term_id: str) -> tuple[str, ...]:
        """Return the children of a current term, sorted."""
        return tuple(self._children[self.check(term_id)])

    def ancestors(self, term_id: str) -> frozenset[str]:
        """Return all ancestors of a current term, without the term itself."""
        return frozenset(self._ids_of_row(self.closure, term_id)) - {term_id}

    def descendants(self, term_id: str) -> frozenset[str]:
        """Return all descendants of a current term, without the term itself."""
        return frozenset(self._ids_of_row(self._closure_down, term_id)) - {term_id}

    def depth(self, term_id: str) -> int:
        """Return the number of edges on the longest path to a root, 0 for a root.

        With the longest path, an ancestor is always shallower than its descendants.
        """
        return self._depths[self.check(term_id)]

    def lca(self, first: str, second: str) -> str | None:
        """Return the lowest common ancestor: the deepest term that is an ancestor of both, or one of them.

        If several are equally deep, the nearest to both is taken, then the first by id. Return None
        if the two share no root.
        """
        up_first, up_second = self.edges_up(first), self.edges_up(second)
        shared = up_first.keys() & up_second.keys()
        if not shared:
            return None
        return min(shared, key=lambda c: (-self._depths[c], up_first[c] + up_second[c], c))

    def distance(self, first: str, second: str) -> int:
        """Return the number of edges on the shortest path between two terms via a shared ancestor.

        Raises
        ------
        ValueError
            If the two share no ancestor.
        """
        up_first, up_second = self.edges_up(first), self.edges_up(second)
        shared = up_first.keys() & up_second.keys()
        if not shared:
            raise ValueError(f"{first} and {second} share no ancestor in {self.title}")
        return min(up_first[term_id] + up_second[term_id] for term_id in shared)

    def is_comparable(self, first: str, second: str) -> bool:
        """Tell whether two terms are equal or one is an ancestor of the other."""
        i, j = self.index[self.check(first)], self.index[self.check(second)]
        return bool(self.closure[i, j] or self.closure[j, i])

    def edges_up(self, term_id: str) -> dict[str, int]:
        """Return the shortest distance to each ancestor of a current term, 0 for the term itself."""
        edges = {self.check(term_id): 0}
        queue = [term_id]
        for child in queue:  # grows during the loop; breadth-first, so the first path is shortest
            for parent in self._parents[child]:
                if parent not in edges:
                    edges[parent] = edges[child] + 1
                    queue.append(parent)
        return edges

    @cached_property
    def closure(self) -> sparse.csr_matrix:
        """Reflexive transitive closure, bool, shape (n_terms, n_terms).

        Entry (i, j) is True where term j is an ancestor of term i or the term itself.
        """
        rows: dict[str, np.ndarray] = {}
        for term_id in self._order:
            ancestors = [rows[parent] for parent in self._parents[term_id]]
            own = [self.index[term_id]]
            rows[term_id] = np.unique(np.concatenate([own, *ancestors]).astype(int))
        columns = [rows[term_id] for term_id in self.ids]
        pointers = np.concatenate([[0], np.cumsum([len(row) for row in columns])])
        indices = np.concatenate(columns) if columns else np.empty(0, dtype=int)
        shape = (len(self.ids), len(self.ids))
        return sparse.csr_matrix((np.ones(len(indices), dtype=bool), indices, pointers), shape)

    def closure_of(self, term_ids: Sequence[str]) -> sparse.csr_matrix:
        """Return the closure of some current terms only, shape (n, n), in their order."""
        rows = [self.index[self.check(term_id)] for term_id in term_ids]
        return self.closure[rows][:, rows]

    def current(self, term_id: str) -> str | None:
        """Return the id itself if it is current, else the id that replaces it, else None."""
        seen = set()
        while term_id in self.terms and term_id not in seen:
            seen.add(term_id)
            term = self.terms[term_id]
            if not term.is_obsolete:
                return term_id
            if term.replaced_by is None:
                return None
            term_id = term.replaced_by
        return None

    def check(self, term_id: str) -> str:
        """Return the id of a current term unchanged.

        Raises
        ------
        KeyError
            If the id is unknown or obsolete; the message names a replacement if there is one.
        """
        if term_id in self.index:
            return term_id
        if term_id not in self.terms:
            raise KeyError(f"{term_id} is not a term of {self.title}")
        instead = self.current(term_id)
        hint = f"; use {instead}" if instead else ""
        raise KeyError(f"{term_id} ({self.terms[term_id].name}) is obsolete in {self.title}{hint}")

    @property
    def title(self) -> str:
        """Name and release, for messages."""
        return f"{self.name} {self.release}"

    @cached_property
    def _closure_down(self) -> sparse.csr_matrix:
        return self.closure.T.tocsr()

    @cached_property
    def _depths(self) -> dict[str, int]:
        depths: dict[str, int] = {}
        for term_id in self._order:
            depths[term_id] = 1 + max((depths[p] for p in self._parents[term_id]), default=-1)
        return depths

    def _ids_of_row(self, matrix: sparse.csr_matrix, term_id: str) -> Iterator[str]:
        row = self.index[self.check(term_id)]
        columns = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        return (self.ids[column] for column in columns)

    def _sort_roots_first(self) -> list[str]:
        """Return the current ids in topological order, parents first; raise if there is a cycle."""
        n_open_parents = {term_id: len(parents) for term_id, parents in self._parents.items()}
        order = [term_id for term_id in self.ids if not n_open_parents[term_id]]
        for term_id in order:  # grows during the loop
            for child in self._children[term_id]:
                n_open_parents[child] -= 1
                if not n_open_parents[child]:
                    order.append(child)
        if len(order) < len(self.ids):
            raise ValueError(f"{self.title} has a cycle: {' is_a '.join(self._find_cycle(order))}")
        return order

    def _find_cycle(self, sorted_ids: Sequence[str]) -> list[str]:
        unsorted = set(self.ids) - set(sorted_ids)
        # Each unsorted term has an unsorted parent, so a path through such parents must repeat.
        path = [min(unsorted)]
        while path[-1] not in path[:-1]:
            path.append(min(unsorted.intersection(self._parents[path[-1]])))
        return path[path.index(path[-1]) :]


@cache
def _bundled(prefix: str) -> Ontology:
    return Ontology(read_bundled(prefix))
