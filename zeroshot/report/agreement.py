"""Compare calls with the existing labels of a file, for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ontology.graph import Ontology
from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.labels.agreement import Truth, confusion, is_true_call, named_truth, resolve_truth
from zeroshot.labels.comparison import key_name
from zeroshot.results.annotated_file import AnnotatedSource
from zeroshot.results.called_cells import CalledCells, Grouping, most_common, text_column

# Usual names of cell type columns, most likely first; only letters and digits are compared.
# Columns of ontology ids (`..._ontology_term_id`) come before the others.
_LABEL_COLUMNS = (
    *("celltypeontologytermid", "celltype", "celltypes", "celltypename", "celllabel"),
    *("cellontologyclass", "cellontologyid", "annotation", "annotations", "bulklabels", "labels"),
)
_MIN_RESOLVED = 0.5  # fraction of cells with a known label, in a guessed column or in a group
_MAX_COLUMNS = 14
_MAX_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """Cells of one label with one call."""

    n_cells: int
    share: float  # of the label's cells
    is_related: bool  # the call is the label, a descendant or an ancestor of it


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Confusion matrix of labels and calls; rare calls are merged into the last column."""

    labels: tuple[tuple[str, int], ...]
    calls: tuple[str, ...]
    cells: tuple[tuple[HeatCell, ...], ...]
    n_labels_left_out: int


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Cells of a group whose label contradicts their call.

    Attributes
    ----------
    share: fraction of the labelled cells of the group
    label: name of the most frequent such label
    """

    share: float
    label: str


@dataclass(frozen=True, kw_only=True)
class LabelAgreement:
    """Agreement of calls and labels.

    Attributes
    ----------
    key: obs column with the labels
    was_found: True if the column was guessed
    n_cells: number of cells whose label and call are comparable
    n_left_out: number of labelled cells that are not, as one of the two is free text
    unresolved: labels that match no cell type, with cell counts
    shares: outcomes as (words, CSS class, fraction of cells)
    heat_map: confusion matrix
    """

    key: str
    was_found: bool
    n_cells: int
    n_left_out: int
    unresolved: dict[str, int]
    shares: tuple[tuple[str, str, float], ...]
    heat_map: HeatMap

    @property
    def share_agreeing(self) -> float:
        """Fraction of the calls that are the label, a descendant or an ancestor of it."""
        made = 1 - self.shares[4][2]
        return sum(share for _, _, share in self.shares[:3]) / made if made else 0.0

    @property
    def share_different(self) -> float:
        """Fraction of the cells whose call contradicts the label."""
        return self.shares[3][2]


def find_labels(
    source: AnnotatedSource,
    wanted: str | None,
    key: str,
    ontology: Ontology,
    spellings: Mapping[str, str] | None = None,
) -> tuple[str, Truth] | None:
    """Return the obs column of labels and its resolved labels: `wanted`, or a guessed column.

    `spellings` are the labels of a head, as in `zeroshot.labels.agreement.resolve_truth`.

    Raises
    ------
    ValueError
        If there is no column `wanted`, or none of its labels is known.
    """
    if wanted is not None:
        if wanted not in source.columns:
            raise ValueError(
                f"{source.label} has no column {wanted!r} in obs; it has {', '.join(source.columns)}"
            )
        return wanted, named_truth(text_column(source, wanted), wanted, ontology, spellings)
    for name in _usual_columns(source.columns, key):
        truth = resolve_truth(text_column(source, name), ontology, spellings)
        if truth.n_scored >= _MIN_RESOLVED * source.n_cells:
            return name, truth
    return None


def _usual_columns(columns: Sequence[str], key: str) -> list[str]:
    """Return columns that may hold cell types, most likely first, without those of langcell."""
    others = [name for name in columns if not name.startswith(f"{key}_")]
    spelt = {"".join(filter(str.isalnum, name.lower())): name for name in reversed(others)}
    usual = [spelt[name] for name in _LABEL_COLUMNS if name in spelt]
    with_ids = [name for name in others if name.endswith("ontology_term_id")]
    first = [name for name in usual if name in with_ids]
    return list(dict.fromkeys([*first, *with_ids, *usual]))


def compare_labels(
    key: str, truth: Truth, cells: CalledCells, ontology: Ontology, *, was_found: bool
) -> LabelAgreement | None:
    """Compare calls with labels; return None if no call is comparable with its label.

    Cells are left out if label and call are not comparable
    (`zeroshot.labels.comparison.is_comparable`); for unknown cells the best candidate is used.
    """
    is_unknown = cells.labels == UNKNOWN
    scored = truth.comparable(np.where(is_unknown, cells.leaf_keys, cells.keys), ontology)
    if not scored.any():
        return None
    true, called = truth.term_ids[scored], cells.keys[scored]
    same = true == called
    broader = is_true_call(true, called, ontology) & ~same
    finer = is_true_call(called, true, ontology) & ~same
    different = ~(same | broader | finer) & (cells.labels[scored] != UNKNOWN)
    unknown = ~(same | broader | finer | different)
    shares = (
        ("called exactly the label", "same", same),
        ("called a broader type, which is right", "broader", broader),
        ("called a subtype of the label, which the label cannot check", "finer", finer),
        ("called another type", "different", different),
        ("unknown", "unknown", unknown),
    )
    return LabelAgreement(
        key=key,
        was_found=was_found,
        n_cells=int(scored.sum()),
        n_left_out=truth.n_scored - int(scored.sum()),
        unresolved=dict(sorted(truth.unresolved.items(), key=lambda item: (-item[1], item[0]))),
        shares=tuple((words, kind, float(np.mean(which))) for words, kind, which in shares),
        heat_map=_heat_map(confusion(truth.only(scored), cells.labels, ontology), cells, ontology),
    )


def contradictions(
    truth: Truth, cells: CalledCells, grouping: Grouping, ontology: Ontology
) -> list[Contradiction | None]:
    """Return the contradictions of labels and calls per group; None if few cells have labels."""
    labelled = truth.term_ids != ""
    agrees = is_true_call(truth.term_ids, cells.term_ids, ontology)
    agrees |= is_true_call(cells.term_ids, truth.term_ids, ontology)
    agrees |= truth.term_ids == cells.keys
    against = truth.comparable(cells.keys, ontology) & ~agrees
    found: list[Contradiction | None] = []
    for group in range(len(grouping.names)):
        inside = grouping.members == group
        n_labelled, n_against = int((inside & labelled).sum()), int((inside & against).sum())
        if n_labelled < _MIN_RESOLVED * inside.sum():
            found.append(None)
            continue
        label = most_common(truth.term_ids[inside & against])[0][0] if n_against else ""
        name = key_name(label, ontology)
        found.append(Contradiction(share=n_against / n_labelled, label=name))
    return found


def _heat_map(table: pd.DataFrame, cells: CalledCells, ontology: Ontology) -> HeatMap:
    ids = dict(zip(cells.labels, cells.keys, strict=True))
    label_ids = {ontology.terms[term_id].name: term_id for term_id in ontology.ids}
    label_ids |= {name: key for name, key in ids.items() if key}  # labels of the head
    rest = table.iloc[:, _MAX_COLUMNS:]
    shown = table.iloc[:_MAX_ROWS, :_MAX_COLUMNS]
    called_ids = [ids[call] for call in shown.columns]
    rows = []
    for label, counts in zip(shown.index, shown.to_numpy(), strict=True):
        total = int(table.loc[label].sum())
        row = [
            _heat_cell(int(n), total, label_ids.get(label, ""), term_id, ontology)
            for n, term_id in zip(counts, called_ids, strict=True)
        ]
        if rest.shape[1]:
            row.append(_heat_cell(int(rest.loc[label].sum()), total, "", "", ontology))
        rows.append(tuple(row))
    return HeatMap(
        labels=tuple((str(label), int(table.loc[label].sum())) for label in shown.index),
        calls=(
            *map(str, shown.columns),
            *([f"{rest.shape[1]} other{'s' * (rest.shape[1] > 1)}"] if rest.shape[1] else []),
        ),
        cells=tuple(rows),
        n_labels_left_out=len(table) - len(shown),
    )


def _heat_cell(n: int, total: int, label_id: str, called_id: str, ontology: Ontology) -> HeatCell:
    known: Sequence[str] = [each for each in (label_id, called_id) if each in ontology.index]
    return HeatCell(
        n_cells=n,
        share=n / total,
        is_related=(
            ontology.is_comparable(label_id, called_id)
            if len(known) == 2
            else label_id == called_id != ""
        ),
    )
