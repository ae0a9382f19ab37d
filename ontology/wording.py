"""Forms of a wording that mean the same, so that labels meet the names of terms."""

import re
import unicodedata
from functools import lru_cache

_GREEK = {
    ord(letter): f" {unicodedata.name(letter).rsplit(' ', 1)[-1].lower()} "
    for letter in "αβγδεζηθικλμω"
}
_MINUS = re.compile(r"(?<=\w)[-\u2212\u2013](?=\s|,|$)")  # "CD8- T cell", but not "B-cell"
_PLUS = re.compile(r"\+")
# A slash joins two types ("NK/T") and must not vanish into a type of both.
_NO_WORD = re.compile(r"[^\w/]+|_+")
_SLASH = re.compile(r"\s*/\s*")
_JOINED = re.compile(r"\b([bt])(cells?)\b")  # "Bcells"


@lru_cache(maxsize=1 << 15)  # other forms begin with this one: a wording comes several times
def normalise(text: str) -> str:
    """Fold case, plural, punctuation, Greek letters and marker signs.

    >>> normalise("CD4+ αβ T-cells")
    'cd4 positive alpha beta t cell'
    """
    text = unicodedata.normalize("NFKD", text).casefold().translate(_GREEK)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = _PLUS.sub(" positive ", _MINUS.sub(" negative ", text))
    text = _JOINED.sub(r"\1 \2", _SLASH.sub(" / ", _NO_WORD.sub(" ", text)))
    return " ".join(_singular(word) for word in text.split())


def without_cell(text: str) -> str:
    """Return the normalised wording without a last "cell", for labels that leave it out or add it.

    >>> without_cell("NK cells"), without_cell("NK"), without_cell("hepatocyte cell")
    ('nk', 'nk', 'hepatocyte')
    """
    return normalise(text).removesuffix(" cell")


def reorder(text: str) -> str:
    """Return the sorted words of a wording, for labels that put the kind first.

    >>> reorder("T cells, CD8 memory") == reorder("memory CD8 T cell") == "cd8 cell memory t"
    True

    Empty where there is no order to change, or where a bare number may count clusters ("B cell 1"
    is no "B-1 cell").
    """
    words = sorted(normalise(text).split())
    return "" if len(words) < 2 or any(word.isdigit() for word in words) else " ".join(words)


def _singular(word: str) -> str:
    """Cut the plural of an English noun; "tregs" to "treg", while "virus" and "basis" stay."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1]
