"""The terms whose wordings look most like a label that means none of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable

# Below this a suggestion shares little more than an ending with the label.
_LEAST_LIKENESS = 0.3


class SuggestionIndex:
    """Wordings of terms by their runs of three letters, which forgives spelling and word order.

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
        """Return up to n term ids, most alike first by Dice's coefficient, then by id."""
        trigrams = _trigrams(text)
        shared = Counter(i for trigram in trigrams for i in self._postings.get(trigram, ()))
        likeness: dict[str, float] = defaultdict(float)
        for i, n_shared in shared.items():
            entry, term_id = self._entries[i]
            dice = 2 * n_shared / (len(trigrams) + len(entry))
            likeness[term_id] = max(likeness[term_id], dice)
        alike = [term_id for term_id, value in likeness.items() if value >= _LEAST_LIKENESS]
        return tuple(sorted(alike, key=lambda term_id: (-likeness[term_id], term_id))[:n])


def _trigrams(text: str) -> frozenset[str]:
    """Return the runs of three letters within words, whose ends count as blanks."""
    return frozenset(
        padded[i : i + 3]
        for word in text.split()
        for padded in [f" {word} "]
        for i in range(len(padded) - 2)
    )
