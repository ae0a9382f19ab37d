"""Which calls a label can judge, where either may be words of a user's own and no term."""

from collections.abc import Collection, Mapping

import numpy as np
from scipy import sparse

from ontology.graph import Ontology
from zeroshot.labels.candidates import FREE_TEXT, own_candidates


def label_spellings(keys: Collection[str], ontology: Ontology) -> dict[str, str]:
    """Return what a column may call the labels of a head, and their keys.

    >>> spelt = label_spellings(["CL:0000236", "text: CD4T"], Ontology.bundled())
    >>> spelt["B cell"], spelt["CD4T"], spelt["text: CD4T"]
    ('CL:0000236', 'text: CD4T', 'text: CD4T')
    """
    candidates = own_candidates(list(keys), ontology)
    by_name = dict(zip(candidates.names, candidates.keys, strict=True))
    return {**by_name, **{key: key for key in candidates.keys}}


def key_name(key: str, ontology: Ontology) -> str:
    """Return a key as readers know it: the name of a term, or the words."""
    return ontology.terms[key].name if key in ontology.index else key.removeprefix(f"{FREE_TEXT} ")


def is_comparable(
    true: np.ndarray, called: np.ndarray, labels: Collection[str], ontology: Ontology
) -> np.ndarray:
    """Tell for which cells the label of a file can judge a call, bool, shape (n_cells,).

    Terms are compared with terms. Words of a head are compared with its other labels, terms among
    them, by a column that uses such words: it would have used them where they apply. By a column of
    terms alone they are neither right nor wrong.

    Parameters
    ----------
    true, called: keys of labels and calls, '' for none, shape (n_cells,)
    labels: keys of the labels of the head
    ontology: a Cell Ontology release
    """
    is_label, is_call = (
        np.array([str(each) in ontology.index for each in keys], dtype=bool)
        for keys in (true, called)
    )
    among = np.array([key in labels for key in true], dtype=bool)
    uses_words = bool(np.any(among & ~is_label))
    among &= np.array([key in labels for key in called], dtype=bool)
    return (is_label & is_call) | (among & uses_words)


class LabelSpace:
    """Terms and words as classes of one closure, in which words stand alone.

    Parameters
    ----------
    keys: that may be words, any shape
    ontology: a Cell Ontology release
    """

    def __init__(self, keys: np.ndarray, ontology: Ontology) -> None:
        words = sorted({str(each) for each in keys.ravel() if each} - ontology.index.keys())
        n_terms = len(ontology.ids)
        self._rows: Mapping[str, int] = {
            **ontology.index,
            **{key: n_terms + row for row, key in enumerate(words)},
        }
        self._ontology = ontology
        self.closure = ontology.closure
        if words:
            alone = sparse.identity(len(words), dtype=bool, format="csr")
            self.closure = sparse.block_diag([ontology.closure, alone], format="csr")

    def depth(self, key: str) -> int:
        """Return the edges from the root; words stand right under it, as in `TermTree`."""
        return self._ontology.depth(key) if key in self._ontology.index else 1

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the class of each key, -1 for none."""
        return np.array([self._rows.get(str(key), -1) for key in keys], dtype=np.int64)
