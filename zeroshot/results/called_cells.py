"""Calls, confidence and groups of the cells of an annotated file, for reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from langcell.runtime.parameter_names import option
from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.labels.candidates import candidate_key
from zeroshot.results.annotated_file import AnnotatedSource
from zeroshot.results.annotations import Slots

NO_CLUSTER = "(empty)"  # name of the group of cells with an empty value
UNCALIBRATED = "uncalibrated"  # id of the identity calibration
DEFAULT_THRESHOLD = 0.9
FEW_CELLS = 10  # a type called in fewer cells may be due to chance
CONFIDENT, BACKED_OFF, ABSTAINED = range(3)
_CLUSTER_COLUMNS = ("leiden", "louvain", "seurat_clusters", "clusters", "cluster", "cluster_id")
_MOST_CLUSTERS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class CalledCells:
    """Calls of all cells; every array has shape (n_cells,).

    Attributes
    ----------
    labels, term_ids: name and Cell Ontology id of each call, the id '' for free text and unknown
    leaf_labels: name of the best candidate, before back-off
    confidence: probability that the call is correct, NaN if the file has none
    leaf_confidence: the same for the best candidate
    margin: probability of the best candidate minus that of the runner-up
    ood: out-of-distribution score, None if the file has none
    has_confidence: False for files without back-off, where `labels` equal `leaf_labels`
    threshold: confidence threshold of the calls
    details: record of `annotate` in uns
    """

    labels: np.ndarray
    term_ids: np.ndarray
    leaf_labels: np.ndarray
    confidence: np.ndarray
    leaf_confidence: np.ndarray
    margin: np.ndarray
    ood: np.ndarray | None
    has_confidence: bool
    threshold: float
    details: dict[str, Any]

    @property
    def reference(self) -> str:
        """Cells that the out-of-distribution score compares with."""
        return "the labelled cells" if "head" in self.details else "the training data"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def keys(self) -> np.ndarray:
        """Key of each call: its id or "text: <words>", '' for unknown."""
        words = np.array([candidate_key("", name) for name in self.labels], dtype=object)
        keys = np.where(self.term_ids != "", self.term_ids, words)
        return np.where(self.labels == UNKNOWN, "", keys)

    @property
    def leaf_keys(self) -> np.ndarray:
        """Key of each best candidate, '' if `details` does not list it."""
        names, keys = (self.details.get(f"candidate_{each}", ()) for each in ("names", "ids"))
        known = dict(zip(map(str, names), map(str, keys), strict=True))
        return np.array([known.get(name, "") for name in self.leaf_labels], dtype=object)

    @property
    def status(self) -> np.ndarray:
        """CONFIDENT, BACKED_OFF or ABSTAINED for each cell."""
        status = np.where(self.labels == self.leaf_labels, CONFIDENT, BACKED_OFF)
        return np.where(self.labels == UNKNOWN, ABSTAINED, status)

    @property
    def calibration(self) -> dict[str, Any]:
        """Record of the calibration in uns, empty if the confidence is not calibrated."""
        record = self.details.get("calibration", {})
        known = isinstance(record, dict) and record.get("id", UNCALIBRATED) != UNCALIBRATED
        return dict(record) if known and self.has_confidence else {}

    @property
    def certainty(self) -> np.ndarray:
        """Confidence, or the margin if there is none; cells are ranked by it."""
        return self.confidence if self.has_confidence else self.margin


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """Group of each cell.

    Attributes
    ----------
    key: obs column of the groups, None for groups of cells with the same call
    names: names of the groups, largest first for calls, in natural order for clusters
    members: index of each cell's group in `names`, shape (n_cells,)
    """

    key: str | None
    names: tuple[str, ...]
    members: np.ndarray


def read_cells(source: AnnotatedSource, slots: Slots) -> CalledCells:
    """Read the calls of an annotated file.

    Raises
    ------
    ValueError
        If the file has no annotations with this key.
    """
    if missing := [
        name
        for name in (slots.leaf_label, slots.leaf_term, slots.margin)
        if name not in source.columns
    ]:
        raise ValueError(
            f"{source.label} has no {', '.join(missing)} in obs: annotate it first (langcell.annotate, "
            f"or langcell annotate FILE --out annotated.h5ad), or give its {option('key_added')}"
        )
    names = ("label", "ontology_term_id", "confidence", "leaf_confidence", "ood")
    columns = {name: f"{slots.key}_{name}" for name in names}
    has_confidence = {columns["label"], columns["confidence"]} <= set(source.columns)
    labels, terms = (
        (columns["label"], columns["ontology_term_id"])
        if has_confidence
        else (slots.leaf_label, slots.leaf_term)
    )
    details = source.notes(slots.key)
    return CalledCells(
        labels=text_column(source, labels),
        term_ids=text_column(source, terms),
        leaf_labels=text_column(source, slots.leaf_label),
        confidence=_numbers(source, columns["confidence"]),
        leaf_confidence=_numbers(source, columns["leaf_confidence"]),
        margin=_numbers(source, slots.margin),
        ood=_outlier_scores(source, columns["ood"]),
        has_confidence=has_confidence,
        threshold=float(details.get("parameters", {}).get("confidence", DEFAULT_THRESHOLD)),
        details=details,
    )


def _numbers(source: AnnotatedSource, name: str) -> np.ndarray:
    """Return an obs column as float64, NaN if missing, shape (n_cells,)."""
    if name not in source.columns:
        return np.full(source.n_cells, np.nan)
    return source.column(name).to_numpy(dtype=np.float64)


def _outlier_scores(source: AnnotatedSource, name: str) -> np.ndarray | None:
    scores = _numbers(source, name)
    return None if np.isnan(scores).all() else scores  # all NaN: the model has no reference cells


def text_column(source: AnnotatedSource, name: str) -> np.ndarray:
    """Return an obs column as text, '' for missing values, shape (n_cells,)."""
    values = source.column(name).astype(object)
    return values.where(values.notna(), "").astype(str).to_numpy(dtype=object)


def find_groups(
    source: AnnotatedSource, cells: CalledCells, wanted: str | None, key: str
) -> Grouping:
    """Group cells by cluster if the source has clusters (`find_cluster_key`), else by call."""
    found = find_cluster_key(source, wanted, key)
    if found is None:
        return group_by_call(cells.labels)
    return group_by_column(text_column(source, found), found)


def find_cluster_key(source: AnnotatedSource, wanted: str | None, key: str) -> str | None:
    """Return the obs column that holds clusters, None if there is none.

    This is `wanted` if given, else `<key>_cluster` of calls per cluster, else a column with a common
    name such as "leiden".

    Raises
    ------
    ValueError
        If the column `wanted` is missing, or has too many values for clusters.
    """
    if wanted is not None:
        if wanted not in source.columns:
            raise ValueError(
                f"{source.label} has no column {wanted!r} in obs to group cells by; it has "
                f"{', '.join(source.columns)}"
            )
        check_groups(source.column(wanted).nunique(), wanted)
        return wanted
    by_name = {name.lower(): name for name in reversed(source.columns)}
    for name in (f"{key}_cluster".lower(), *_CLUSTER_COLUMNS):
        if name in by_name and 2 <= source.column(by_name[name]).nunique() <= _MOST_CLUSTERS:
            return by_name[name]
    return None


def check_groups(n_groups: int, key: str) -> None:
    """Raise if an obs column has too many values for the groups of a report."""
    if n_groups > _MOST_CLUSTERS:
        raise ValueError(
            f"obs[{key!r}] has {n_groups:,} different values, and a report takes at most "
            f"{_MOST_CLUSTERS}; name a column of clusters"
        )


def group_by_column(values: np.ndarray, key: str) -> Grouping:
    """Group cells by a text column; numbered clusters are in numeric order."""
    distinct, members = np.unique(values.astype(str), return_inverse=True)
    names = [str(name) for name in distinct]
    order = sorted(range(len(names)), key=lambda row: _natural(names[row]))
    position = np.empty(len(names), dtype=np.int64)
    position[order] = np.arange(len(names))
    return Grouping(
        key=key,
        names=tuple(names[row] or NO_CLUSTER for row in order),
        members=position[members],
    )


def group_by_call(labels: np.ndarray) -> Grouping:
    """Group cells with the same call."""
    names, members, sizes = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    # Largest first; cells without a call come last.
    order = np.lexsort((-sizes, names == UNKNOWN))
    position = np.empty(len(names), dtype=np.int64)
    position[order] = np.arange(len(names))
    return Grouping(key=None, names=tuple(names[order]), members=position[members])


def most_common(values: Sequence[str] | np.ndarray) -> list[tuple[str, int]]:
    """Return (value, count) pairs, most frequent first, ties by name."""
    names, sizes = np.unique(np.asarray(values).astype(str), return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return [(str(names[row]), int(sizes[row])) for row in order]


def _natural(name: str) -> tuple[int, float, str]:
    number = pd.to_numeric(name, errors="coerce")
    return (1, 0.0, name) if np.isnan(number) else (0, float(number), name)
