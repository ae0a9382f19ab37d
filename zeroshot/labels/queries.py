"""Search queries: a Cell Ontology id, name or synonym, or any free text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langcell.model.langcell import LangCell
from ontology.candidates import NEVER_CALLED
from ontology.descriptions import describe
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.labels.candidates import (
    FREE_TEXT,
    CandidateSet,
    candidate_features,
    free_text_description,
    unresolved_message,
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search query.

    Attributes
    ----------
    words: the query as given
    term_id: Cell Ontology id if the words name a cell type, '' for free text
    name: name of that cell type; free text as given
    text: input of the text encoder
    """

    words: str
    term_id: str
    name: str
    text: str


def read_queries(words: Sequence[str], ontology: Ontology) -> tuple[Query, ...]:
    """Resolve each query to a cell type, or use it as free text.

    >>> query, free = read_queries(["NK cells", "tired T cells"], Ontology.bundled())
    >>> query.term_id, free.text
    ('CL:0000623', 'cell type: tired T cells. ')

    Raises
    ------
    ValueError
        If a query is empty, an id is not a current term, or a term is too general for a query.
    """
    words = [each.strip() for each in words]
    if not words or not all(each.removeprefix(FREE_TEXT).strip() for each in words):
        raise ValueError("a query is empty; give the name or id of a cell type, or a description")
    resolver = LabelResolver(ontology)
    return tuple(_read(each, resolver, ontology) for each in words)


def _read(words: str, resolver: LabelResolver, ontology: Ontology) -> Query:
    if words.lower().startswith(FREE_TEXT):
        name = words[len(FREE_TEXT) :].strip()
        return Query(words=words, term_id="", name=name, text=free_text_description(name))
    found = resolver.resolve([words])[0]
    if found.term_id in NEVER_CALLED:
        raise ValueError(f"query {words!r} is too general: it matches every cell; name a cell type")
    if found.term_id is not None:
        name = ontology.terms[found.term_id].name
        text = describe(ontology, found.term_id)
        return Query(words=words, term_id=found.term_id, name=name, text=text)
    if words.upper().startswith(("CL:", "CL_")):
        raise ValueError(unresolved_message([found], ontology))
    return Query(words=words, term_id="", name=words, text=free_text_description(words))


def query_features(queries: Sequence[Query], model: LangCell) -> np.ndarray:
    """Embed queries; return float32, unit norm, shape (n_queries, embedding_dim)."""
    candidates = CandidateSet(
        ids=tuple(query.term_id for query in queries),
        names=tuple(query.name for query in queries),
        texts=tuple(query.text for query in queries),
        described="queries",
    )
    return candidate_features(candidates, model)
