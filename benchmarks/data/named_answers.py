"""Names of cell types as experts and annotators answer them, as terms of the Cell Ontology."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ontology.graph import Ontology

NO_TERM = "NA"  # how the paper writes a part of an answer that names no term


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a list of markers is called.

    Attributes
    ----------
    label: in the words of who answered; '' for no answer
    terms: current Cell Ontology ids, `NO_TERM` for a part that names none; empty where all do not
    broad: broad types, in the words of the paper
    """

    label: str
    terms: frozenset[str] = frozenset()
    broad: frozenset[str] = frozenset()

    @property
    def term_id(self) -> str | None:
        """The one term that the answer is; None where it is none or several."""
        named = self.terms - {NO_TERM}
        return next(iter(named)) if len(self.terms) == len(named) == 1 else None


class BroadTypes:
    """Broad types of Cell Ontology terms, as a table of named cell types gives them.

    A term that the table does not have is of the broad types of its nearest ancestors that it has:
    of those equally near the first id.

    Parameters
    ----------
    named: pairs of an id and its broad types
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
        """Return the broad types of a live term; empty where no ancestor has any."""
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
    """Return the parts of an entry that names several.

    >>> sorted(split_parts("fibroblast,immune cell"))
    ['fibroblast', 'immune cell']
    """
    return frozenset(part.strip() for part in text.split(",") if part.strip())
