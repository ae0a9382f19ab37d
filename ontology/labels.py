"""Resolve free-text labels to term ids by exact matching, without guessing."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

from ontology.bundled import read_bundled
from ontology.candidates import ROOT
from ontology.graph import Ontology
from ontology.suggestions import SuggestionIndex
from ontology.term import Term
from ontology.wording import normalise, reorder, without_cell

# Such an abbreviation needs its "cell": the label "PE" does not mean "PE cell".
_ABBREVIATED_CELL = re.compile(r"\w{1,3}[ -]cell", re.IGNORECASE)
# "microglial cell (Mmus)", "rod bipolar cell (sensu Mus)": the synonyms are of one species only.
_SPECIES = re.compile(r"\((?:Mmus|Primate|sensu (?!Vertebrata)[\w ]+)\)|, mouse$")
_ID = re.compile(r"(?:https?://purl\.obolibrary\.org/obo/)?([a-z]+)[:_](\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Term that a label resolves to, or the reason why it does not resolve."""

    label: str
    term_id: str | None
    # id, name, synonym, alias, elliptic ("memory B" for "memory B cell"), reordered ("T cells CD8"),
    # replaced (an obsolete term with a replacement); ambiguous or unknown if term_id is None
    how: str
    suggestions: tuple[str, ...] = ()  # term ids, best first; empty if resolved


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Normalised wordings of one kind, with the ids of the terms that they mean."""

    how: str
    normalise: Callable[[str], str]
    ids: Mapping[str, set[str]]


class LabelResolver:
    """Resolve labels to term ids through the ids, names and exact synonyms of one ontology.

    Differences in case, plural, punctuation, Greek letters and the ``+`` and ``-`` of markers are
    ignored, unless they decide between two terms. A label that matches two terms is not resolved.

    Parameters
    ----------
    ontology
        Ontology to search: the cell types of a Cell Ontology release, all current terms of another.
    aliases
        Further wordings, label -> term id, tried after the names and synonyms of the ontology. By
        default those of ``ontology/data/aliases.tsv`` for the Cell Ontology, none for others.
    """

    def __init__(self, ontology: Ontology, aliases: Mapping[str, str] | None = None) -> None:
        self._ontology = ontology
        self._aliases = None if aliases is None else dict(aliases)
        self._ids = {term_id.lower(): term_id for term_id in ontology.terms}

    def resolve(self, labels: Iterable[str]) -> list[Resolution]:
        """Return one resolution per label, in order.

        >>> LabelResolver(Ontology.bundled()).resolve(["B-cells"])[0].term_id
        'CL:0000236'
        """
        return [self._resolve(str(label)) for label in labels]

    def _resolve(self, label: str) -> Resolution:
        written = _ID.fullmatch(label.strip())
        if written:
            return self._resolve_id(label, f"{written[1]}:{written[2]}".lower())
        for table in self._tables:
            found = table.ids.get(table.normalise(label), set())
            if table.how == "elliptic" and normalise(label) in _anatomy():
                continue  # "Kidney" is a tissue, not the term "kidney cell"
            if len(found) == 1:
                return Resolution(label=label, term_id=min(found), how=table.how)
            if found:
                return _unresolved(label, "ambiguous", sorted(found))
        return _unresolved(label, "unknown", self._suggestions.nearest(without_cell(label), n=3))

    @cached_property
    def _pool(self) -> frozenset[str]:
        """Terms that a label may resolve to."""
        if ROOT not in self._ontology.index:
            return frozenset(self._ontology.ids)
        return self._ontology.descendants(ROOT) | {ROOT}

    @cached_property
    def _names(self) -> list[tuple[str, str]]:
        return [(self._ontology.terms[term_id].name, term_id) for term_id in sorted(self._pool)]

    @cached_property
    def _synonyms(self) -> list[tuple[str, str]]:
        terms = [self._ontology.terms[term_id] for term_id in sorted(self._pool)]
        return [(wording, term.id) for term in terms for wording in _own_synonyms(term)]

    @cached_property
    def _tables(self) -> tuple[_Table, ...]:
        """Tables of wordings; the first that contains a label decides. Not needed for ids."""
        aliases = self._aliases
        if aliases is None:
            aliases = bundled_aliases() if ROOT in self._ontology.index else {}
        names, synonyms, others = self._names, self._synonyms, self._current(aliases.items())
        # An alias that contradicts a synonym makes the wording ambiguous.
        contested = _contested(synonyms, others)
        long = [wording for wording in synonyms if not _ABBREVIATED_CELL.fullmatch(wording[0])]
        return (
            _table("name", str.strip, names),
            _table("synonym", str.strip, [*synonyms, *contested]),
            _table("name", normalise, names),
            _table("synonym", normalise, [*synonyms, *contested]),
            _table("alias", normalise, others),
            _table("elliptic", without_cell, [*names, *long, *others]),
            _table("reordered", reorder, [*names, *synonyms, *others]),
            _table("replaced", normalise, self._current(self._obsolete_names())),
        )

    @cached_property
    def _suggestions(self) -> SuggestionIndex:
        wordings = [*self._names, *self._synonyms]
        return SuggestionIndex((without_cell(text), term_id) for text, term_id in wordings)

    def _resolve_id(self, label: str, lower_id: str) -> Resolution:
        if lower_id not in self._ids:
            return _unresolved(label, "unknown", ())
        term_id = self._ids[lower_id]
        current = self._ontology.current(term_id)
        if current is None:
            consider = self._ontology.terms[term_id].consider
            return _unresolved(label, "unknown", [i for i in consider if i in self._ontology.index])
        how = "id" if current == term_id else "replaced"
        return Resolution(label=label, term_id=current, how=how)

    def _obsolete_names(self) -> Iterable[tuple[str, str]]:
        for term in self._ontology.terms.values():
            if term.is_obsolete:
                yield term.name.removeprefix("obsolete "), term.id

    def _current(self, wordings: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Replace ids by their current ids in this release; drop those without one."""
        current = ((wording, self._ontology.current(term_id)) for wording, term_id in wordings)
        return [(wording, term_id) for wording, term_id in current if term_id in self._pool]


@cache
def bundled_aliases() -> dict[str, str]:
    """Return label -> Cell Ontology id, read from ``ontology/data/aliases.tsv``."""
    table = (files("ontology") / "data" / "aliases.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return {label: term_id for label, term_id, _provenance in rows}


@cache
def _anatomy() -> frozenset[str]:
    """Return the normalised names and synonyms of anatomical structures."""
    terms = read_bundled("UBERON").terms.values()
    return frozenset(normalise(text) for term in terms for text in (term.name, *term.synonyms))


def _own_synonyms(term: Term) -> tuple[str, ...]:
    """Return the exact synonyms; none if the term's name states a species, as synonyms omit it."""
    return () if _SPECIES.search(term.name) else term.synonyms


def _contested(
    synonyms: Iterable[tuple[str, str]], aliases: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    taken = {normalise(wording) for wording, _ in synonyms}
    return [(wording, term_id) for wording, term_id in aliases if normalise(wording) in taken]


def _table(
    how: str, normalise: Callable[[str], str], wordings: Iterable[tuple[str, str]]
) -> _Table:
    ids: dict[str, set[str]] = defaultdict(set)
    for wording, term_id in wordings:
        ids[normalise(wording)].add(term_id)
    ids.pop("", None)
    return _Table(how=how, normalise=normalise, ids=dict(ids))


def _unresolved(label: str, how: str, suggestions: Iterable[str]) -> Resolution:
    return Resolution(label=label, term_id=None, how=how, suggestions=tuple(suggestions))
