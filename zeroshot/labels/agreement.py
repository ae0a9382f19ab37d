"""Agreement of calls with the labels in an obs column."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from langcell.nn import metrics
from ontology.candidates import NEVER_CALLED, ROOT
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.labels.comparison import LabelSpace, is_comparable, key_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """True labels of the cells of a file, as Cell Ontology ids or as labels of a head.

    Attributes
    ----------
    term_ids: key of each cell's label, shape (n_cells,): its Cell Ontology id, "text: <words>" for
        a free-text label of a head, '' if the label is unknown
    unresolved: labels that are neither, with their numbers of cells; these cells are not scored
    head_keys: keys of the labels of the head, empty without a head
    """

    term_ids: np.ndarray
    unresolved: dict[str, int]
    head_keys: frozenset[str] = frozenset()

    @property
    def n_scored(self) -> int:
        """Number of cells with a known label."""
        return int(np.sum(self.term_ids != ""))

    def comparable(self, called: np.ndarray, ontology: Ontology) -> np.ndarray:
        """Return which calls can be compared with the label (`is_comparable`), shape (n_cells,)."""
        return is_comparable(self.term_ids, called, self.head_keys, ontology)

    def only(self, cells: np.ndarray) -> "Truth":
        """Return a copy with the labels of the selected cells only: bool mask, shape (n_cells,)."""
        return replace(self, term_ids=np.where(cells, self.term_ids, ""))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Metrics of calls against true labels, over the cells with a known label.

    Attributes
    ----------
    accuracy: share of cells whose call is exactly the term of their label
    macro_f1, macro_f1_all: mean F1 over types with at least 10 cells, and over all types
    descendant_accuracy: share whose call is the term of their label or a descendant of it
    hierarchical_f1: F1 of the ancestor sets of call and label
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
    """Metrics of calls after back-off, over the cells with a known label.

    Attributes
    ----------
    call_coverage: share of cells that are not unknown
    call_accuracy: share of these calls that are the term of the label or an ancestor of it
    call_exact: share of these calls that are exactly the term of the label
    call_depth: mean depth of these calls, in edges of the ontology
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
    """Resolve an obs column, and raise if it names no cell type.

    Parameters
    ----------
    values: values of the column, '' if missing, shape (n_cells,)
    key: name of the column
    ontology: a Cell Ontology release
    spellings: spellings of the labels of a head, as in `resolve_truth`

    Raises
    ------
    ValueError
        If no value names exactly one cell type, or a label of the head.
    """
    truth = resolve_truth(values, ontology, spellings)
    if not truth.n_scored:
        some = ", ".join(map(repr, list(truth.unresolved)[:3])) or "only empty values"
        raise ValueError(
            f"no label in obs[{key!r}] names a cell type of the Cell Ontology"
            f"{' or a label of the head' if spellings else ''} (it has {some}); give a column of "
            "names, synonyms or CL ids"
        )
    return truth


def resolve_truth(
    labels: np.ndarray, ontology: Ontology, spellings: Mapping[str, str] | None = None
) -> Truth:
    """Resolve each distinct label to a term; labels without an exact match stay unresolved.

    Parameters
    ----------
    labels: shape (n_cells,)
    ontology: a Cell Ontology release
    spellings: keys of the labels of a head by their spellings, which take precedence over the
        ontology (`zeroshot.labels.comparison.label_spellings`)
    """
    spellings = spellings or {}
    distinct, inverse = np.unique(labels.astype(str), return_inverse=True)
    term_ids = []
    unresolved: dict[str, int] = {}
    for row, found in enumerate(LabelResolver(ontology).resolve(distinct)):
        known = found.term_id is not None and found.term_id not in NEVER_CALLED
        term_id = str(found.term_id) if known else ""
        term_ids.append(spellings.get(found.label.strip(), term_id))
        if not term_ids[-1] and found.label.strip():
            unresolved[found.label] = int(np.sum(inverse == row))
    return Truth(
        term_ids=np.array(term_ids, dtype=object)[inverse],
        unresolved=unresolved,
        head_keys=frozenset(spellings.values()),
    )


def compare(truth: Truth, called_ids: np.ndarray, ontology: Ontology) -> Agreement:
    """Compute the metrics of calls against true labels.

    Parameters
    ----------
    truth: from `resolve_truth`
    called_ids: key of each call, its Cell Ontology id or "text: <words>"; '' for no call, which
        counts as wrong

    Raises
    ------
    ValueError
        If no cell has a known label.
    """
    scored = truth.term_ids != ""
    if not scored.any():
        raise ValueError(
            f"no label is a cell type of the Cell Ontology, got "
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
    """Compute the metrics of calls after back-off; arguments as in `compare`, '' for unknown.

    All metrics except the coverage use the calls that can be compared with a label; they are NaN if
    there are none.
    """
    scored = truth.term_ids != ""
    coverage = float(np.mean(called_ids[scored] != ""))
    judged = truth.comparable(called_ids, ontology)
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
        # Arguments swapped: the truth must be the call or a descendant of it.
        call_accuracy=metrics.descendant_accuracy(called, true, space.closure),
        call_exact=metrics.accuracy(true, called),
        call_depth=float(np.mean([space.depth(key) for key in called_ids])),
    )


def is_true_call(true_ids: np.ndarray, called_ids: np.ndarray, ontology: Ontology) -> np.ndarray:
    """Return for each cell whether its call is the term of its label or an ancestor of it.

    Parameters
    ----------
    true_ids, called_ids: Cell Ontology ids, shape (n_cells,)

    Returns
    -------
    bool, shape (n_cells,); False if an id is not a term
    """
    space = LabelSpace(np.array([]), ontology)  # without free-text labels
    true, called = space.rows(true_ids), space.rows(called_ids)
    # Arguments swapped: the truth must be the call or a descendant of it.
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
