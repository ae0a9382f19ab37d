"""Map free-text answers of language models to Cell Ontology terms."""

import re
from collections.abc import Iterator

from benchmarks.data.named_answers import NO_TERM, Answer, BroadTypes
from ontology.graph import Ontology
from ontology.labels import LabelResolver

_BOLD = re.compile(r"\*\*(.+?)\*\*")
_SAID = re.compile(r"\b(?:cell type|answer)\b[^.\n:]*?(?:\bis\b|:)\s*(.+)", re.IGNORECASE)
_RATHER = re.compile(r",\s*(?:specifically|likely)\s+")
_ARTICLE = re.compile(r"^(?:likely |probably )?(?:an? |the )", re.IGNORECASE)
_BRACKETS = re.compile(r"\s*\([^)]*\)")
_BETWEEN = re.compile(r"\s*(?:/|;|,|\bor\b|\band\b)\s*")
_LONGEST = 80  # letters; longer text is not a name
_EDGES = " \t\n.,;:*_`'\"“”"


class AnswerTerms:
    """Map answers to terms by exact names and synonyms; other answers stay text.

    An answer with several types maps to all of them; parts that are not a term count as `NO_TERM`.
    GPTCelltype treats its recorded answers the same way, so hedged answers get no full agreement.

    Parameters
    ----------
    ontology: a Cell Ontology release
    broad_types: broad types of the terms, for GPTCelltype's agreement
    """

    def __init__(self, ontology: Ontology, broad_types: BroadTypes) -> None:
        self._resolver = LabelResolver(ontology)
        self._broad_types = broad_types

    def answer(self, text: str | None) -> Answer:
        """Parse the cell type of a reply; return an `Answer` without label if there is none."""
        names = list(_names(text or ""))
        if not names:
            return Answer(label="")
        found = [each.term_id for each in self._resolver.resolve(names)]
        terms = {next((term_id for term_id in found if term_id), None)}
        if terms == {None}:
            parts = [part for part in _BETWEEN.split(names[-1]) if part]
            terms = {each.term_id for each in self._resolver.resolve(parts)}
        known = terms - {None}
        return Answer(
            label=names[0],
            terms=frozenset(term_id or NO_TERM for term_id in terms) if known else frozenset(),
            broad=frozenset().union(*(self._broad_types.of(str(each)) for each in known)),
        )


def _names(text: str) -> Iterator[str]:
    """Yield variants of the name in a reply, the most complete first.

    >>> list(_names("The most likely cell type is **naive B cells (IgD+)**."))
    ['naive B cells (IgD+)', 'naive B cells']
    """
    lines = [line for line in text.splitlines() if line.strip(_EDGES)]
    if not lines:
        return
    # After reasoning the conclusion comes last; otherwise there is one line.
    found = _BOLD.findall(lines[-1]) or _SAID.findall(lines[-1]) or [lines[-1]]
    name = _ARTICLE.sub("", found[-1].strip(_EDGES))
    if not name or len(name) > _LONGEST:
        return
    plain = _BRACKETS.sub("", name).strip(_EDGES)
    general = _RATHER.split(plain)[0].strip(_EDGES)
    yield from dict.fromkeys(each for each in (name, plain, general) if each)
