"""Suggest the terms most similar to a label that does not resolve."""

from collections import Counter, defaultdict
from collections.abc import Iterable

# Suggestions with less similarity share little more than an ending with the label.
_MIN_SIMILARITY = 0.3


class SuggestionIndex:
    """Trigram index of the wordings of terms, tolerant of spelling errors and word order.

    Parameters
    ----------
    wordings
        Pairs of a wording and the id of its term.
    """

    def __init__(self, wordings: Iterable[tuple[str, str]]) -> None:
        self._entries = [(_trigrams(text), term_id) for text, term_id in wordings]
        self._postings: dict[str, list[int]] = defaultdict(list)
        for i, (trigrams, _) in enumerate(self._entries):
            for trigram in trigrams:
                self._postings[trigram].append(i)

    def nearest(self, text: str, n: int) -> tuple[str, ...]:
        """Return up to n term ids, the most similar first by Dice coefficient, then by id."""
        trigrams = _trigrams(text)
        shared = Counter(i for trigram in trigrams for i in self._postings.get(trigram, ()))
        similarity: dict[str, float] = defaultdict(float)
        for i, n_shared in shared.items():
            entry, term_id = self._entries[i]
            dice = 2 * n_shared / (len(trigrams) + len(entry))
            similarity[term_id] = max(similarity[term_id], dice)
        similar = [term_id for term_id, value in similarity.items() if value >= _MIN_SIMILARITY]
        return tuple(sorted(similar, key=lambda term_id: (-similarity[term_id], term_id))[:n])


def _trigrams(text: str) -> frozenset[str]:
    """Return the letter trigrams of the words, each padded with a space at both ends."""
    return frozenset(
        padded[i : i + 3]
        for word in text.split()
        for padded in [f" {word} "]
        for i in range(len(padded) - 2)
    )
