"""A column of labels as candidates: terms of the Cell Ontology where they name one, else words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ontology.candidates import NEVER_CALLED
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.labels.candidates import FREE_TEXT, CandidateSet, own_candidates

NO_LABELS = ("", "unknown", "unassigned", "unlabeled", "unlabelled", "nan", "na", "n/a", "none")
_MANY = 40  # words of one's own; with more than half as many as cells they are names of cells


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelColumn:
    """Labels of a column as candidates, and the candidate of each cell.

    Attributes
    ----------
    candidates: the distinct labels
    codes: row of each cell's label among them, -1 for none, int, shape (n_cells,)
    as_text: labels that name no cell type and are read as words
    """

    candidates: CandidateSet
    codes: np.ndarray
    as_text: tuple[str, ...]

    @classmethod
    def of(
        cls,
        given: np.ndarray,
        key: str,
        further: Sequence[str],
        ontology: Ontology,
        *,
        are_types: bool = True,
    ) -> "LabelColumn":
        """Resolve a column.

        Parameters
        ----------
        given: the column, '' where it is empty, shape (n_cells,)
        key: its name
        further: labels that no cell has
        ontology: a Cell Ontology release
        are_types: look labels up; else all are words, whatever they resemble

        Raises
        ------
        ValueError
            If no cell has a label, nearly every cell has one of its own that names no cell type, or
            fewer than two different labels are known.
        """
        distinct, place = np.unique(given.astype(str), return_inverse=True)
        is_label = np.array([each.strip().lower() not in NO_LABELS for each in distinct])
        if not is_label.any():
            raise ValueError(f"no cell has a label in obs[{key!r}]: all are empty or unknown")
        keys, as_text = [], []
        found = LabelResolver(ontology).resolve([each.strip() for each in distinct])
        for label, resolved in zip(distinct, found, strict=True):
            is_term = resolved.term_id is not None and resolved.term_id not in NEVER_CALLED
            if are_types and is_term:
                keys.append(str(resolved.term_id))
            else:
                keys.append(f"{FREE_TEXT} {label.strip()}")
                as_text.append(str(label))
        as_text = [each for each in as_text if each.strip().lower() not in NO_LABELS]
        _check_shared(as_text, int(is_label[place].sum()), key)
        known = [each for each, is_one in zip(keys, is_label, strict=True) if is_one]
        candidates = own_candidates([*known, *further], ontology)
        row = {each: number for number, each in enumerate(candidates.keys)}
        codes = np.array([row.get(each, -1) for each in keys])
        codes[~is_label] = -1
        return cls(
            candidates=candidates,
            codes=codes[place],
            as_text=tuple(as_text),
        )


def _check_shared(words: Sequence[str], n_labelled: int, key: str) -> None:
    """Refuse words that hardly two cells share: nothing can be learnt of them."""
    if len(words) > max(_MANY, n_labelled // 2):
        raise ValueError(
            f"obs[{key!r}] has {len(words):,} different values in {n_labelled:,} cells, such as "
            f"{words[0]!r}: hardly two cells share one, so that it looks like a column of names; give "
            "--label-key a column of labels"
        )
