"""Data classes for ontology terms and for an ontology as read from its source."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

# A reference in round or square brackets: "(Rostock et al. 2018, PMID:29229553)", "[GOC:tfm]",
# "(CL:0008003)". They would only use up the text encoder's 256 tokens.
_REFERENCE = re.compile(
    r"\s*[(\[][^()\[\]]*(?:\b(?:PMID|DOI|doi|ISBN|GOC|CL|UBERON|GO|PR)[:_]|https?://)[^()\[\]]*[)\]]"
)
_AUTHOR_YEAR = re.compile(r"\s*[(\[][^()\[\]]*\b(?:1[89]|20)\d\d[a-z]?[)\]]\s*$")
_SPACE_BEFORE_STOP = re.compile(r" (?=[.,;](?:\s|$))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Synonym:
    """A synonym of a term, with its scope in the source."""

    text: str
    scope: str  # EXACT, BROAD, NARROW or RELATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of an ontology."""

    id: str
    name: str
    definition: str = ""  # without references; empty if the source has none
    synonyms: tuple[str, ...] = ()  # exact synonyms
    loose_synonyms: tuple[Synonym, ...] = ()  # broad, narrow and related synonyms
    parents: tuple[str, ...] = ()  # is_a; merged with part_of if the source merges them
    related: tuple[tuple[str, str], ...] = ()  # (relation, term id), if the source has them
    is_obsolete: bool = False
    replaced_by: str | None = None
    consider: tuple[str, ...] = ()  # suggested alternatives to an obsolete term


@dataclass(frozen=True, kw_only=True)
class OntologySource:
    """An ontology as read from its source, before the graph is built."""

    name: str
    release: str  # a plain date or version: "2024-04-05"
    relations: tuple[str, ...]
    terms: Mapping[str, Term]


def clean_definition(text: str) -> str:
    """Return a definition on one line, without references and repeated spaces.

    >>> clean_definition("A cell  of the gut (Furness 2018, PMID:1234). [GOC:tfm]")
    'A cell of the gut.'
    """
    # These patterns are slow, and most definitions have no brackets.
    has_brackets = "(" in text or "[" in text
    if has_brackets:
        text = _REFERENCE.sub("", text)
    text = " ".join(text.replace("`", "").replace("\u200b", "").split())
    if has_brackets:
        text = _AUTHOR_YEAR.sub("", text)
    return _SPACE_BEFORE_STOP.sub("", text)


def clean_release(text: str) -> str:
    """Return a release as a plain date or version, without a prefix.

    >>> clean_release("releases/2024-04-05"), clean_release("v2026-03-26")
    ('2024-04-05', '2026-03-26')
    """
    return re.sub(r"^v(?=\d)", "", text.strip().rsplit("/", 1)[-1])
