"""Text metrics of SOAR for cell type names: similarity of wordings.

As SOAR computes them (Liu et al. 2024): exact match and token F1 of SQuAD (Rajpurkar et al. 2016),
ROUGE-1 (Lin 2004), METEOR (Banerjee & Lavie 2005; exact words, then stems: without WordNet's
synonyms, so it is slightly lower), BLEU of unigrams and bigrams over all answers (Papineni et al.
2002). With several correct names the closest counts; BLEU uses all as references. Names are compared
in lower case and singular, as in SOAR, with signs and Greek letters spelled out.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import snowballstemmer

from ontology.wording import normalise

Words = tuple[str, ...]
_ORDER = 2  # longest n-gram in BLEU: names are short
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """Text metrics of answers, each from 0 to 1."""

    exact_match: float
    token_f1: float
    rouge1: float
    meteor: float
    bleu: float


def text_figures(answers: Sequence[str], right: Sequence[Sequence[str]]) -> TextFigures:
    """Score free-text answers.

    Parameters
    ----------
    answers: '' for no answer
    right: correct names for each answer, at least one

    >>> figures = text_figures(["Naive B-cells"], [["B cell", "naive B lymphocyte"]])
    >>> figures.exact_match, figures.token_f1, round(figures.rouge1, 2)
    (0.0, 0.8, 0.8)
    """
    answers = [normalise(each) for each in answers]
    right = [[normalise(name) for name in names] for names in right]

    def best(score: Callable[[str, str], float]) -> float:
        pairs = zip(answers, right, strict=True)
        return float(np.mean([max(score(given, name) for name in names) for given, names in pairs]))

    return TextFigures(
        exact_match=best(lambda given, name: float(_squad(given) == _squad(name))),
        token_f1=best(lambda given, name: _overlap_f1(_squad(given), _squad(name))),
        rouge1=best(lambda given, name: _overlap_f1(_words(given), _words(name))),
        meteor=best(lambda given, name: meteor(_words(given), _words(name))),
        bleu=bleu([_words(each) for each in answers], [list(map(_words, each)) for each in right]),
    )


def meteor(given: Words, name: Words) -> float:
    """Return the METEOR score: aligned words of two names, with a fragmentation penalty.

    >>> round(meteor(("naive", "b", "cells"), ("naive", "b", "cell")), 4)
    0.9815
    """
    pairs = _align(given, name)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(given), len(pairs) / len(name)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    steps = zip(pairs, pairs[1:], strict=False)
    n_runs = 1 + sum(b != (a[0] + 1, a[1] + 1) for a, b in steps)
    return float(mean * (1 - 0.5 * (n_runs / len(pairs)) ** 3))


def bleu(answers: Sequence[Words], right: Sequence[Sequence[Words]]) -> float:
    """Return the geometric mean of unigram and bigram precision, with brevity penalty."""
    hits, total = np.zeros(_ORDER), np.zeros(_ORDER)
    n_given = n_right = 0
    for given, names in zip(answers, right, strict=True):
        n_given += len(given)
        n_right += min(map(len, names))
        for order in range(1, _ORDER + 1):
            most: Counter[Words] = Counter()
            for each in names:
                most |= _runs(each, order)
            found = _runs(given, order)
            hits[order - 1] += (found & most).total()
            total[order - 1] += found.total()
    if not hits.all():
        return 0.0
    brevity = min(1.0, float(np.exp(1 - n_right / n_given)))
    return brevity * float(np.exp(np.log(hits / total).mean()))


def _align(given: Words, name: Words) -> list[tuple[int, int]]:
    """Align equal words, from the end, then words with the same stem; sorted."""
    pairs: list[tuple[int, int]] = []
    for fold in (str, _stem):
        taken, used = {a for a, _ in pairs}, {b for _, b in pairs}
        free: dict[str, list[int]] = {}
        for place, word in enumerate(name):
            if place not in used:
                free.setdefault(fold(word), []).append(place)
        for place in reversed(range(len(given))):
            if place not in taken and free.get(fold(given[place])):
                pairs.append((place, free[fold(given[place])].pop()))
    return sorted(pairs)


def _overlap_f1(given: Words, name: Words) -> float:
    shared = (Counter(given) & Counter(name)).total()
    return 2 * shared / (len(given) + len(name)) if shared else 0.0


def _runs(words: Words, order: int) -> Counter[Words]:
    return Counter(words[start : start + order] for start in range(len(words) - order + 1))


def _squad(text: str) -> Words:
    """Return words in lower case, without punctuation and articles."""
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return tuple(_ARTICLES.sub(" ", plain).split())


def _words(text: str) -> Words:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


@cache
def _stem(word: str) -> str:
    return str(snowballstemmer.stemmer("porter").stemWord(word))
