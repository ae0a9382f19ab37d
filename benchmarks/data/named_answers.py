"""Answers of experts and annotators, with their Cell Ontology terms and broad types."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ontology.graph import Ontology

NO_TERM = "NA"  # as in the paper: a part of an answer that is not a term


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer for a marker list.

    Attributes
    ----------
    label: wording of the answer; '' for no answer
    terms: current Cell Ontology ids, `NO_TERM` for a part without a term; empty if no part has one
    broad: broad types, as named in the paper
    """

    label: str
    terms: frozenset[str] = frozenset()
    broad: frozenset[str] = frozenset()

    @property
    def term_id(self) -> str | None:
        """The term of the answer; None if there is none, or several."""
        named = self.terms - {NO_TERM}
        return next(iter(named)) if len(self.terms) == len(named) == 1 else None


class BroadTypes:
    """Broad types of Cell Ontology terms, from a table.

    A term that is not in the table gets the broad types of its nearest ancestor in it; ties go to
    the first id.

    Parameters
    ----------
    named: pairs of term id and broad types
    ontology: a Cell Ontology release
    """

    def __init__(self, named: Iterable[tuple[str, frozenset[str]]], ontology: Ontology) -> None:
        counts: dict[str, Counter[frozenset[str]]] = {}
        for term_id, broad in named:
            counts.setdefault(term_id, Counter())[broad] += 1
        self._ontology = ontology
        self._of = {
            term_id: min(found, key=lambda each: (-found[each], sorted(each)))
            for term_id, found in counts.items()
        }

    def of(self, term_id: str) -> frozenset[str]:
        """Return the broad types of a current term; empty if no ancestor has any."""
        edges = self._ontology.edges_up(term_id)
        known = edges.keys() & self._of.keys()
        if not known:
            return frozenset()
        return self._of[min(known, key=lambda each: (edges[each], each))]

    def answer(self, term_id: str) -> Answer:
        """Return a term as an answer."""
        name = self._ontology.terms[term_id].name
        return Answer(label=name, terms=frozenset({term_id}), broad=self.of(term_id))


def split_parts(text: str) -> frozenset[str]:
    """Split an entry with several names.

    >>> sorted(split_parts("fibroblast,immune cell"))
    ['fibroblast', 'immune cell']
    """
    return frozenset(part.strip() for part in text.split(",") if part.strip())
