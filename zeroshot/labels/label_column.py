"""An obs column of labels as candidates: Cell Ontology terms where they match, else free text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langcell.runtime.parameter_names import option
from ontology.candidates import NEVER_CALLED
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.labels.candidates import FREE_TEXT, CandidateSet, own_candidates

NO_LABELS = ("", "unknown", "unassigned", "unlabeled", "unlabelled", "nan", "na", "n/a", "none")
_MANY = 40  # free-text labels; more than this and than half the cells: a column of cell names


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelColumn:
    """Labels of an obs column as candidates, and the candidate of each cell.

    Attributes
    ----------
    candidates: the distinct labels
    codes: index of each cell's label among the candidates, -1 for none, int, shape (n_cells,)
    as_text: labels that name no cell type and are used as free text
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
        """Resolve the values of a column.

        Parameters
        ----------
        given: values of the column, '' if missing, shape (n_cells,)
        key: name of the column
        further: additional labels that no cell has
        ontology: a Cell Ontology release
        are_types: look labels up in the ontology; if False, all are free text

        Raises
        ------
        ValueError
            If no cell has a label, most cells have a label of their own that names no cell type, or
            there are fewer than two different labels.
        """
        distinct, inverse = np.unique(given.astype(str), return_inverse=True)
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
        _check_shared(as_text, int(is_label[inverse].sum()), key)
        known = [each for each, is_one in zip(keys, is_label, strict=True) if is_one]
        candidates = own_candidates([*known, *further], ontology)
        row = {each: number for number, each in enumerate(candidates.keys)}
        codes = np.array([row.get(each, -1) for each in keys])
        codes[~is_label] = -1
        return cls(
            candidates=candidates,
            codes=codes[inverse],
            as_text=tuple(as_text),
        )


def _check_shared(words: Sequence[str], n_labelled: int, key: str) -> None:
    """Raise if most cells have a free-text label of their own: a head cannot learn from these."""
    if len(words) > max(_MANY, n_labelled // 2):
        raise ValueError(
            f"obs[{key!r}] has {len(words):,} different values in {n_labelled:,} cells, such as "
            f"{words[0]!r}: few cells share a value, so it looks like a column of cell names; give a "
            f"column of labels as {option('label_key')}"
        )
