"""Normalise labels and term names, so that different spellings match."""

import re
import unicodedata
from functools import lru_cache

_GREEK = {
    ord(letter): f" {unicodedata.name(letter).rsplit(' ', 1)[-1].lower()} "
    for letter in "αβγδεζηθικλμω"
}
_MINUS = re.compile(r"(?<=\w)[-\u2212\u2013](?=\s|,|$)")  # "CD8- T cell", but not "B-cell"
_PLUS = re.compile(r"\+")
# A slash is kept: "NK/T" names two types, not one.
_NO_WORD = re.compile(r"[^\w/]+|_+")
_SLASH = re.compile(r"\s*/\s*")
_JOINED = re.compile(r"\b([bt])(cells?)\b")  # "Bcells"


@lru_cache(maxsize=1 << 15)  # the other functions call this too, often with the same text
def normalise(text: str) -> str:
    """Normalise case, plural, punctuation, Greek letters and the signs of markers.

    >>> normalise("CD4+ αβ T-cells")
    'cd4 positive alpha beta t cell'
    """
    text = unicodedata.normalize("NFKD", text).casefold().translate(_GREEK)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = _PLUS.sub(" positive ", _MINUS.sub(" negative ", text))
    text = _JOINED.sub(r"\1 \2", _SLASH.sub(" / ", _NO_WORD.sub(" ", text)))
    return " ".join(_singular(word) for word in text.split())


def without_cell(text: str) -> str:
    """Return the normalised text without a final "cell", for labels that omit or add it.

    >>> without_cell("NK cells"), without_cell("NK"), without_cell("hepatocyte cell")
    ('nk', 'nk', 'hepatocyte')
    """
    return normalise(text).removesuffix(" cell")


def reorder(text: str) -> str:
    """Return the sorted words of a text, for labels with another word order.

    >>> reorder("T cells, CD8 memory") == reorder("memory CD8 T cell") == "cd8 cell memory t"
    True

    Return '' if there is only one word, or if a number may be that of a cluster ("B cell 1" is not
    "B-1 cell").
    """
    words = sorted(normalise(text).split())
    return "" if len(words) < 2 or any(word.isdigit() for word in words) else " ".join(words)


def _singular(word: str) -> str:
    """Return the singular of an English noun: "treg" for "tregs"; "virus" and "basis" stay."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1]
