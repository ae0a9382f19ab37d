"""Arrange the called types as a tree, each type in one place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ontology.candidates import NEVER_CALLED
from ontology.graph import Ontology


@dataclass(frozen=True, kw_only=True)
class CallTree:
    """A type with its children.

    Attributes
    ----------
    term_id, name: id and name of the type
    n_own: number of cells called exactly this type
    n_cells: number of cells called this type or a descendant of it
    children: subtrees
    """

    term_id: str
    name: str
    n_own: int
    n_cells: int
    children: tuple["CallTree", ...]


def call_trees(n_cells: Mapping[str, int], ontology: Ontology) -> tuple[CallTree, ...]:
    """Arrange called types by the ontology, branches with most cells first.

    A type with several parents is placed under one of them, so that the counts of a branch add up.
    An ancestor is shown if cells were called it, or if it has several called branches.

    Parameters
    ----------
    n_cells: number of cells of each call by Cell Ontology id; other ids are ignored
    ontology: a Cell Ontology release
    """
    called = {term_id: n for term_id, n in n_cells.items() if n and term_id in ontology.index}
    shown = set(called).union(*(ontology.ancestors(term_id) for term_id in called)) - NEVER_CALLED
    totals = dict.fromkeys(shown, 0)
    for term_id, n in called.items():
        for ancestor in (ontology.ancestors(term_id) | {term_id}) & shown:
            totals[ancestor] += n
    children: dict[str, list[str]] = {term_id: [] for term_id in shown}
    roots = []
    for term_id in sorted(shown):
        if parents := [each for each in ontology.parents(term_id) if each in shown]:
            # The deepest parent with other cells: "B cell" before "antigen presenting cell".
            shared = [each for each in parents if totals[each] > totals[term_id]] or parents
            best = max(shared, key=lambda each: (ontology.depth(each), totals[each], each))
            children[best].append(term_id)
        else:
            roots.append(term_id)
    trees = (_branch(term_id, called, children, ontology) for term_id in roots)
    return _by_size(tree for tree in trees if tree.n_cells)


def _branch(
    term_id: str, called: Mapping[str, int], children: Mapping[str, list[str]], ontology: Ontology
) -> CallTree:
    subtrees = (_branch(child, called, children, ontology) for child in children[term_id])
    branches = _by_size(branch for branch in subtrees if branch.n_cells)
    own = called.get(term_id, 0)
    if not own and len(branches) == 1:
        return branches[0]
    return CallTree(
        term_id=term_id,
        name=ontology.terms[term_id].name,
        n_own=own,
        n_cells=own + sum(branch.n_cells for branch in branches),
        children=branches,
    )


def _by_size(branches: Iterable[CallTree]) -> tuple[CallTree, ...]:
    return tuple(sorted(branches, key=lambda branch: (-branch.n_cells, branch.name)))
