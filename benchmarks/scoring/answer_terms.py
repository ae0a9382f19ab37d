"""Answers of language models in words to Cell Ontology terms."""

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
_LONGEST = 80  # letters of a name; what is longer is prose
_EDGES = " \t\n.,;:*_`'\"“”"


class AnswerTerms:
    """Maps answers to terms, without guessing: what no name or synonym says stays words.

    An answer that names several types stands for all of them, of which those that are no term count
    as `NO_TERM`: so GPTCelltype reads its recorded answers, and a hedge gets no full agreement.

    Parameters
    ----------
    ontology: a Cell Ontology release
    broad_types: of the terms, for GPTCelltype's agreement
    """

    def __init__(self, ontology: Ontology, broad_types: BroadTypes) -> None:
        self._resolver = LabelResolver(ontology)
        self._broad_types = broad_types

    def answer(self, text: str | None) -> Answer:
        """Return what a reply calls the cells; an `Answer` without label where it says nothing."""
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
    """Yield wordings of the name that a reply gives, the fullest first.

    >>> list(_names("The most likely cell type is **naive B cells (IgD+)**."))
    ['naive B cells (IgD+)', 'naive B cells']
    """
    lines = [line for line in text.splitlines() if line.strip(_EDGES)]
    if not lines:
        return
    # After reasoning the conclusion stands last; without, there is one line.
    found = _BOLD.findall(lines[-1]) or _SAID.findall(lines[-1]) or [lines[-1]]
    name = _ARTICLE.sub("", found[-1].strip(_EDGES))
    if not name or len(name) > _LONGEST:
        return
    plain = _BRACKETS.sub("", name).strip(_EDGES)
    general = _RATHER.split(plain)[0].strip(_EDGES)
    yield from dict.fromkeys(each for each in (name, plain, general) if each)
