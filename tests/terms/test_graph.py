"""Order in a graph: a tiny OBO file by hand, and any graph against the obvious way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology import Ontology, Term
from ontology.term import OntologySource

TINY = Path(__file__).parents[1] / "data" / "tiny.obo"
CELL, LEFT, RIGHT, MIDDLE, DEEP = (f"CL:000000{i}" for i in (0, 1, 2, 3, 6))


@pytest.fixture(scope="module")
def tiny() -> Ontology:
    return Ontology.from_obo(TINY)


def graph_of(parents: dict[str, list[str]]) -> Ontology:
    terms = {key: Term(id=key, name=key, parents=tuple(value)) for key, value in parents.items()}
    return Ontology(OntologySource(name="made", release="1", relations=("is_a",), terms=terms))


def test_ids_are_the_live_terms_in_order(tiny: Ontology) -> None:
    assert tiny.ids == (CELL, LEFT, RIGHT, MIDDLE, DEEP, "UBERON:0000001")
    assert [tiny.index[term_id] for term_id in tiny.ids] == list(range(6))
    assert tiny.terms["CL:0000004"].is_obsolete


def test_closure_of_the_tiny_file(tiny: Ontology) -> None:
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert tiny.closure.dtype == bool
    assert np.array_equal(tiny.closure.toarray(), expected)


def test_a_term_with_two_parents(tiny: Ontology) -> None:
    assert tiny.parents(MIDDLE) == (LEFT, RIGHT)
    assert tiny.children(CELL) == (LEFT, RIGHT)
    assert tiny.ancestors(DEEP) == {MIDDLE, LEFT, RIGHT, CELL}
    assert tiny.descendants(LEFT) == {MIDDLE, DEEP}
    assert [tiny.depth(i) for i in (CELL, LEFT, MIDDLE, DEEP)] == [0, 1, 2, 3]


def test_lca_and_distance(tiny: Ontology) -> None:
    assert tiny.lca(LEFT, RIGHT) == CELL
    assert tiny.lca(MIDDLE, LEFT) == LEFT
    assert tiny.distance(LEFT, RIGHT) == 2
    assert tiny.distance(DEEP, CELL) == 3
    assert tiny.lca(CELL, "UBERON:0000001") is None
    with pytest.raises(ValueError, match="share no ancestor in tiny 2020-02-29"):
        tiny.distance(CELL, "UBERON:0000001")


def test_lca_of_two_equally_deep_is_the_nearest_then_the_first() -> None:
    parents = {"r": [], "a": ["r"], "b": ["r"], "x": ["a", "b"], "y": ["a", "b"]}
    assert graph_of(parents).lca("x", "y") == "a"
    # Now a is one edge farther from y on its shortest way, at the same depth.
    parents = {"r": [], "a": ["r"], "b": ["r"], "m": ["a"], "x": ["a", "b"], "y": ["m", "b"]}
    assert graph_of(parents).lca("x", "y") == "b"


def test_depth_is_the_longest_way() -> None:
    ontology = graph_of({"r": [], "a": ["r"], "b": ["a"], "x": ["r", "b"]})
    assert ontology.depth("x") == 3
    assert ontology.distance("x", "r") == 1


def test_a_cycle_is_refused_and_shown() -> None:
    with pytest.raises(ValueError, match="made 1 has a cycle: a is_a b is_a a"):
        graph_of({"r": [], "a": ["b", "r"], "b": ["a"], "c": ["a"]})


def test_a_parent_that_is_not_described_is_left_out() -> None:
    assert graph_of({"a": ["elsewhere"]}).parents("a") == ()


@st.composite
def directed_acyclic_graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    n_terms = draw(st.integers(1, 12))
    return {
        f"t{i:02}": [f"t{j:02}" for j in range(i) if draw(st.booleans())] for i in range(n_terms)
    }


@settings(max_examples=60, deadline=None)
@given(parents=directed_acyclic_graphs())
def test_closure_is_the_reflexive_transitive_closure(parents: dict[str, list[str]]) -> None:
    ontology = graph_of(parents)
    closure = ontology.closure.toarray().astype(int)
    assert closure.diagonal().all()
    assert np.array_equal(closure @ closure > 0, closure > 0), "transitive"
    for term_id in ontology.ids:
        above = set(parents[term_id]).union(*(ontology.ancestors(p) for p in parents[term_id]))
        assert ontology.ancestors(term_id) == above
        assert all(term_id in ontology.descendants(ancestor) for ancestor in above)


@settings(max_examples=60, deadline=None)
@given(parents=directed_acyclic_graphs())
def test_lca_and_distance_are_symmetric_and_right(parents: dict[str, list[str]]) -> None:
    ontology = graph_of(parents)
    for first in ontology.ids:
        for second in ontology.ids:
            ups = ontology.edges_up(first), ontology.edges_up(second)
            shared = ups[0].keys() & ups[1].keys()
            lowest = ontology.lca(first, second)
            assert lowest == ontology.lca(second, first)
            assert (lowest is None) == (not shared)
            if lowest is not None:
                assert not shared & ontology.descendants(lowest), "none is lower"
                best = min(ups[0][i] + ups[1][i] for i in shared)
                assert ontology.distance(first, second) == best
