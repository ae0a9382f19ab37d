"""How far calls agree with labels that a file has already."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from langcell.nn import metrics
from ontology.candidates import NEVER_CALLED, ROOT
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.labels.comparison import LabelSpace, is_comparable, key_name

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Labels of a file as Cell Ontology terms, or as words that a head has for labels.

    Attributes
    ----------
    term_ids: id of each cell's label, "text: " and its words where a head knows those, '' where it
        has none, shape (n_cells,)
    unresolved: labels that are neither, with their cells; those cells are not scored
    head_keys: keys of the labels of the head, where there is one
    """

    term_ids: np.ndarray
    unresolved: dict[str, int]
    head_keys: frozenset[str] = frozenset()

    @property
    def n_scored(self) -> int:
        """Cells whose label is known."""
        return int(np.sum(self.term_ids != ""))

    def judges(self, called: np.ndarray, ontology: Ontology) -> np.ndarray:
        """Tell for which cells the label can judge a call (`is_comparable`), shape (n_cells,)."""
        return is_comparable(self.term_ids, called, self.head_keys, ontology)

    def only(self, cells: np.ndarray) -> "Truth":
        """Return it with labels for some cells alone: bool, shape (n_cells,)."""
        return replace(self, term_ids=np.where(cells, self.term_ids, ""))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Calls against truth, over the cells whose truth is known.

    Attributes
    ----------
    accuracy: share of cells called the very term of their label
    macro_f1, macro_f1_all: mean F1 over types with at least 10 cells, and over all types
    descendant_accuracy: share called the term of their label or a subtype of it
    hierarchical_f1: overlap of ancestor sets
    majority_accuracy: accuracy of calling every cell the most frequent type
    """

    n_cells: int
    n_types: int
    accuracy: float
    macro_f1: float
    macro_f1_all: float
    descendant_accuracy: float
    hierarchical_f1: float
    majority_accuracy: float


@dataclass(frozen=True, kw_only=True)
class CallAgreement:
    """Calls after back-off against truth, over the cells whose truth is known.

    Attributes
    ----------
    call_coverage: share of cells that are not unknown
    call_accuracy: share of the calls made that are the term of their label or an ancestor of it
    call_exact: share of the calls made that are the very term
    call_depth: mean depth of the calls made, in edges of the ontology
    """

    call_coverage: float
    call_accuracy: float
    call_exact: float
    call_depth: float


def named_truth(
    values: np.ndarray,
    key: str,
    ontology: Ontology,
    spellings: Mapping[str, str] | None = None,
) -> Truth:
    """Resolve a column of obs, and refuse one that names no cell type.

    Parameters
    ----------
    values: of the column, '' where it is empty, shape (n_cells,)
    key: its name
    ontology: a Cell Ontology release
    spellings: of the labels of a head, as in `resolve_truth`

    Raises
    ------
    ValueError
        If none of the values names one cell type, or a label of the head.
    """
    truth = resolve_truth(values, ontology, spellings)
    if not truth.n_scored:
        some = ", ".join(map(repr, list(truth.unresolved)[:3])) or "empty values alone"
        raise ValueError(
            f"no label in obs[{key!r}] names one cell type of the Cell Ontology"
            f"{' or a label of the head' if spellings else ''} (it has {some}); give a column of "
            "names, synonyms or CL ids"
        )
    return truth


def resolve_truth(
    labels: np.ndarray, ontology: Ontology, spellings: Mapping[str, str] | None = None
) -> Truth:
    """Resolve each distinct label; nothing is guessed.

    Parameters
    ----------
    labels: shape (n_cells,)
    ontology: a Cell Ontology release
    spellings: keys of the labels of a head by what they may be called, which come before all else
        (`zeroshot.labels.comparison.label_spellings`)
    """
    spellings = spellings or {}
    distinct, place = np.unique(labels.astype(str), return_inverse=True)
    term_ids = []
    unresolved: dict[str, int] = {}
    for row, found in enumerate(LabelResolver(ontology).resolve(distinct)):
        known = found.term_id is not None and found.term_id not in NEVER_CALLED
        term_id = str(found.term_id) if known else ""
        term_ids.append(spellings.get(found.label.strip(), term_id))
        if not term_ids[-1] and found.label.strip():
            unresolved[found.label] = int(np.sum(place == row))
    return Truth(
        term_ids=np.array(term_ids, dtype=object)[place],
        unresolved=unresolved,
        head_keys=frozenset(spellings.values()),
    )


def compare(truth: Truth, called_ids: np.ndarray, ontology: Ontology) -> Agreement:
    """Score calls against the truth.

    Parameters
    ----------
    truth: from `resolve_truth`
    called_ids: key of each call, its Cell Ontology id or "text: " and words; '' for none, which is
        never right

    Raises
    ------
    ValueError
        If no label is known.
    """
    scored = truth.term_ids != ""
    if not scored.any():
        raise ValueError(
            f"none of the labels is a cell type of the Cell Ontology: "
            f"{', '.join(list(truth.unresolved)[:5]) or 'all are empty'}"
        )
    space = LabelSpace(np.append(truth.term_ids, called_ids), ontology)
    true, called = space.rows(truth.term_ids[scored]), space.rows(called_ids[scored])
    hierarchical = metrics.hierarchical_f1(
        true, called, space.closure, root=ontology.index.get(ROOT)
    )
    return Agreement(
        n_cells=len(true),
        n_types=len(np.unique(true)),
        accuracy=metrics.accuracy(true, called),
        macro_f1=metrics.macro_f1(true, called),
        macro_f1_all=metrics.macro_f1(true, called, min_cells=1),
        descendant_accuracy=metrics.descendant_accuracy(true, called, space.closure),
        hierarchical_f1=hierarchical.f1,
        majority_accuracy=metrics.majority_accuracy(true),
    )


def compare_calls(truth: Truth, called_ids: np.ndarray, ontology: Ontology) -> CallAgreement:
    """Score calls after back-off; arguments as in `compare`, '' for unknown.

    Figures of the calls made are of those that a label can judge, and NaN where there are none.
    """
    scored = truth.term_ids != ""
    coverage = float(np.mean(called_ids[scored] != ""))
    judged = truth.judges(called_ids, ontology)
    if not judged.any():
        nothing = float("nan")
        return CallAgreement(
            call_coverage=coverage, call_accuracy=nothing, call_exact=nothing, call_depth=nothing
        )
    true_ids, called_ids = truth.term_ids[judged], called_ids[judged]
    space = LabelSpace(np.append(true_ids, called_ids), ontology)
    true, called = space.rows(true_ids), space.rows(called_ids)
    return CallAgreement(
        call_coverage=coverage,
        # An ancestor of the truth is what the truth is a subtype of.
        call_accuracy=metrics.descendant_accuracy(called, true, space.closure),
        call_exact=metrics.accuracy(true, called),
        call_depth=float(np.mean([space.depth(key) for key in called_ids])),
    )


def is_true_call(true_ids: np.ndarray, called_ids: np.ndarray, ontology: Ontology) -> np.ndarray:
    """Tell for each cell whether its call is true: the type of its label, or one broader than it.

    Parameters
    ----------
    true_ids, called_ids: Cell Ontology ids, shape (n_cells,)

    Returns
    -------
    bool, shape (n_cells,); False where an id is no term
    """
    space = LabelSpace(np.array([]), ontology)  # words are no terms
    true, called = space.rows(true_ids), space.rows(called_ids)
    # A call that the truth is a kind of: truth and call change places under the descendant rule.
    return metrics.is_descendant(called, true, space.closure)


def confusion(truth: Truth, called_names: np.ndarray, ontology: Ontology) -> pd.DataFrame:
    """Count the scored cells by true type (rows) and call (columns), most cells first."""
    scored = truth.term_ids != ""
    true_ids, true = np.unique(truth.term_ids[scored].astype(str), return_inverse=True)
    names, called = np.unique(called_names[scored].astype(str), return_inverse=True)
    table = metrics.confusion_table(true, called)
    return pd.DataFrame(
        table.counts,
        index=[key_name(true_ids[row], ontology) for row in table.true_classes],
        columns=[names[column] for column in table.called_classes],
    )
