"""How far a name agrees with an expert's: 1, 0.5 or 0, as GPTCelltype scores it.

Hou and Ji 2024, Nature Methods 21:1462. Full: both stand for the same Cell Ontology terms, or are
the same words. Partial: their broad types meet, or one's relative meets the other. The rule gives
all 5,461 recorded agreements of the paper's table.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ontology.graph import Ontology

NO_TERM = "NA"  # how the paper writes a part of an answer that names no term
_MALIGNANT = frozenset({"malignant cell"})
# Broad types that count as near. The paper lists 46 pairs, but its code looks each type up once and
# finds the first of its pairs alone.
RELATIVES: Mapping[str, str] = {
    "antigen presenting cell": "b cell",
    "astrocyte": "glial cell",
    "b cell": "antigen presenting cell",
    "dendritic cell": "antigen presenting cell",
    "endothelial cell": "epithelial cell",
    "epithelial cell": "endothelial cell",
    "erythroid cell": "myeloid cell",
    "fat cell": "stromal cell",
    "fibroblast": "stromal cell",
    "glial cell": "astrocyte",
    "granulocyte": "immune cell",
    "immune cell": "b cell",
    "innate lymphoid cell": "immune cell",
    "leukocyte": "b cell",
    "lymphocyte": "b cell",
    "macroglial cell": "astrocyte",
    "macrophage/monocyte": "antigen presenting cell",
    "megakaryocyte": "platelet",
    "microglia": "glial cell",
    "myeloid cell": "erythroid cell",
    "oligodendrocyte": "glial cell",
    "osteoblast": "stromal cell",
    "pericyte": "stromal cell",
    "platelet": "megakaryocyte",
    "radial glial cell": "glial cell",
    "stromal cell": "fibroblast",
    "t/nk cell": "immune cell",
}


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


def agreement(truth: Answer, answer: Answer) -> float:
    """Score an answer against an expert's: 1, 0.5 or 0.

    >>> cell = Answer(label="B cells", terms=frozenset({"CL:0000236"}), broad=frozenset({"b cell"}))
    >>> agreement(cell, Answer(label="B cell")), agreement(cell, Answer(label="lymphoid"))
    (1.0, 0.0)
    """
    same_terms = bool(truth.terms) and truth.terms == answer.terms
    same_words = _words(truth.label) == _words(answer.label)
    if same_terms or same_words or (truth.broad == _MALIGNANT == answer.broad):
        return 1.0
    return 0.5 if _near(truth.broad) & _near(answer.broad) else 0.0


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


def _near(broad: frozenset[str]) -> frozenset[str]:
    return broad | {RELATIVES[each] for each in broad if each in RELATIVES}


def _words(label: str) -> str:
    return re.sub("s$", "", label.lower())
