"""What an ontology source says: its terms, and which relations it keeps apart."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

# A reference in round or square brackets: "(Rostock et al. 2018, PMID:29229553)", "[GOC:tfm]",
# "(CL:0008003)". Inside an encoder's 256 tokens they are noise.
_REFERENCE = re.compile(
    r"\s*[(\[][^()\[\]]*(?:\b(?:PMID|DOI|doi|ISBN|GOC|CL|UBERON|GO|PR)[:_]|https?://)[^()\[\]]*[)\]]"
)
_AUTHOR_YEAR = re.compile(r"\s*[(\[][^()\[\]]*\b(?:1[89]|20)\d\d[a-z]?[)\]]\s*$")
_SPACE_BEFORE_STOP = re.compile(r" (?=[.,;](?:\s|$))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Synonym:
    """Another wording for a term, with the scope that the source gives it."""

    text: str
    scope: str  # EXACT, BROAD, NARROW or RELATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of an ontology."""

    id: str
    name: str
    definition: str = ""  # without references; empty where the source gives none
    synonyms: tuple[str, ...] = ()  # those that mean this very term
    loose_synonyms: tuple[Synonym, ...] = ()  # broad, narrow and related ones
    parents: tuple[str, ...] = ()  # is_a; merged with part_of where the source merges them
    related: tuple[tuple[str, str], ...] = ()  # (relation, term id), where the source gives them
    is_obsolete: bool = False
    replaced_by: str | None = None
    consider: tuple[str, ...] = ()  # what an obsolete term's users may look at instead


@dataclass(frozen=True, kw_only=True)
class OntologySource:
    """A source as read, before its order is worked out."""

    name: str
    release: str  # a date or version without decoration: "2024-04-05"
    relations: tuple[str, ...]
    terms: Mapping[str, Term]


def clean_definition(text: str) -> str:
    """Return a definition on one line, without references and doubled spaces.

    >>> clean_definition("A cell  of the gut (Furness 2018, PMID:1234). [GOC:tfm]")
    'A cell of the gut.'
    """
    # Patterns that start with any space are slow, and most definitions have no bracket.
    has_brackets = "(" in text or "[" in text
    if has_brackets:
        text = _REFERENCE.sub("", text)
    text = " ".join(text.replace("`", "").replace("\u200b", "").split())
    if has_brackets:
        text = _AUTHOR_YEAR.sub("", text)
    return _SPACE_BEFORE_STOP.sub("", text)


def clean_release(text: str) -> str:
    """Return a release without the decoration of its source.

    >>> clean_release("releases/2024-04-05"), clean_release("v2026-03-26")
    ('2024-04-05', '2026-03-26')
    """
    return re.sub(r"^v(?=\d)", "", text.strip().rsplit("/", 1)[-1])
