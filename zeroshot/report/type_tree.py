"""The types that were called, as a tree with each type in one place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ontology.candidates import NEVER_CALLED
from ontology.graph import Ontology


@dataclass(frozen=True, kw_only=True)
class CallTree:
    """A type, the cells called that very type, and the cells called it or a kind of it."""

    term_id: str
    name: str
    n_own: int
    n_cells: int
    kinds: tuple["CallTree", ...]


def call_trees(n_cells: Mapping[str, int], ontology: Ontology) -> tuple[CallTree, ...]:
    """Arrange called types by the ontology, the branches with most cells first.

    A type with several parents stands under one of them, so that the numbers of a branch add up. An
    ancestor is shown where it was called itself or where the ways of several called types part.

    Parameters
    ----------
    n_cells: number of cells called each type, by Cell Ontology id; ids that are no terms are left out
    ontology: a Cell Ontology release
    """
    called = {term_id: n for term_id, n in n_cells.items() if n and term_id in ontology.index}
    shown = set(called).union(*(ontology.ancestors(term_id) for term_id in called)) - NEVER_CALLED
    below = dict.fromkeys(shown, 0)
    for term_id, n in called.items():
        for above in (ontology.ancestors(term_id) | {term_id}) & shown:
            below[above] += n
    kinds: dict[str, list[str]] = {term_id: [] for term_id in shown}
    tops = []
    for term_id in sorted(shown):
        if parents := [each for each in ontology.parents(term_id) if each in shown]:
            # The deepest parent that others share: "B cell" before "antigen presenting cell".
            shared = [each for each in parents if below[each] > below[term_id]] or parents
            best = max(shared, key=lambda each: (ontology.depth(each), below[each], each))
            kinds[best].append(term_id)
        else:
            tops.append(term_id)
    trees = (_branch(term_id, called, kinds, ontology) for term_id in tops)
    return _by_size(tree for tree in trees if tree.n_cells)


def _branch(
    term_id: str, called: Mapping[str, int], kinds: Mapping[str, list[str]], ontology: Ontology
) -> CallTree:
    below = (_branch(kind, called, kinds, ontology) for kind in kinds[term_id])
    branches = _by_size(branch for branch in below if branch.n_cells)
    own = called.get(term_id, 0)
    if not own and len(branches) == 1:
        return branches[0]
    return CallTree(
        term_id=term_id,
        name=ontology.terms[term_id].name,
        n_own=own,
        n_cells=own + sum(branch.n_cells for branch in branches),
        kinds=branches,
    )


def _by_size(branches: Iterable[CallTree]) -> tuple[CallTree, ...]:
    return tuple(sorted(branches, key=lambda branch: (-branch.n_cells, branch.name)))
