"""Comparison of calls with labels, where either may be a term or free text."""

from collections.abc import Collection, Mapping

import numpy as np
from scipy import sparse

from ontology.graph import Ontology
from zeroshot.labels.candidates import FREE_TEXT, own_candidates


def label_spellings(keys: Collection[str], ontology: Ontology) -> dict[str, str]:
    """Map the spellings that a column may use for the labels of a head to their keys.

    >>> spelt = label_spellings(["CL:0000236", "text: CD4T"], Ontology.bundled())
    >>> spelt["B cell"], spelt["CD4T"], spelt["text: CD4T"]
    ('CL:0000236', 'text: CD4T', 'text: CD4T')
    """
    candidates = own_candidates(list(keys), ontology)
    by_name = dict(zip(candidates.names, candidates.keys, strict=True))
    return {**by_name, **{key: key for key in candidates.keys}}


def key_name(key: str, ontology: Ontology) -> str:
    """Return the name of the term of a key, or the words of free text."""
    return ontology.terms[key].name if key in ontology.index else key.removeprefix(f"{FREE_TEXT} ")


def is_comparable(
    true: np.ndarray, called: np.ndarray, labels: Collection[str], ontology: Ontology
) -> np.ndarray:
    """Return for which cells a call can be compared with the label, bool, shape (n_cells,).

    Terms are compared with terms. Free-text labels of a head are compared with all labels of the
    head, but only if the column uses at least one of them: such a column would have used the others
    too. If the column holds only terms, a free-text call is neither right nor wrong.

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
    of_head = np.array([key in labels for key in true], dtype=bool)
    uses_free_text = bool(np.any(of_head & ~is_label))
    of_head &= np.array([key in labels for key in called], dtype=bool)
    return (is_label & is_call) | (of_head & uses_free_text)


class LabelSpace:
    """Terms and free-text labels as classes of one ancestor closure; free text has no relatives.

    Parameters
    ----------
    keys: keys that may be free text, any shape
    ontology: a Cell Ontology release
    """

    def __init__(self, keys: np.ndarray, ontology: Ontology) -> None:
        free = sorted({str(each) for each in keys.ravel() if each} - ontology.index.keys())
        n_terms = len(ontology.ids)
        self._rows: Mapping[str, int] = {
            **ontology.index,
            **{key: n_terms + row for row, key in enumerate(free)},
        }
        self._ontology = ontology
        self.closure = ontology.closure
        if free:
            identity = sparse.identity(len(free), dtype=bool, format="csr")
            self.closure = sparse.block_diag([ontology.closure, identity], format="csr")

    def depth(self, key: str) -> int:
        """Return the edges from the root; free text is a child of the root, as in `TermTree`."""
        return self._ontology.depth(key) if key in self._ontology.index else 1

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the class of each key, -1 for no known key."""
        return np.array([self._rows.get(str(key), -1) for key in keys], dtype=np.int64)
