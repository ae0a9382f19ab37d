"""Read the calls of an annotated file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from anndata.io import read_elem

from langcell.counts.obs_columns import obs_columns, read_obs_column
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.results.annotations import Slots
from zeroshot.results.cell_scores import UNASSIGNED

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True, eq=False)
class WrittenCalls:
    """Calls read from an annotated file.

    Attributes
    ----------
    name: prefix of the obs columns, such as "langcell" or "langcell_leaf"
    cell_names: shape (n_cells,)
    labels: name of each call, "unknown" for none, object, shape (n_cells,)
    term_ids: Cell Ontology id of each call, '' for free text and unknown, object, shape (n_cells,)
    confidence: calibrated probability of each call, NaN for none; None if the file has none
    notes: record of `annotate` in uns
    """

    name: str
    cell_names: np.ndarray
    labels: np.ndarray
    term_ids: np.ndarray
    confidence: np.ndarray | None
    notes: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


def read_calls(
    source: "AnnData | str | Path",
    ontology: Ontology,
    *,
    key: str = "langcell",
    name: str | None = None,
) -> WrittenCalls:
    """Read calls from an annotated h5ad file or AnnData.

    Obsolete ids are replaced by their current ids; the id of a term that the release does not have
    is read as ''.

    Parameters
    ----------
    source: annotated by `zeroshot.annotation.annotator.annotate`
    ontology: a Cell Ontology release
    key: prefix of the names of all results
    name: prefix of the columns of the calls; by default the key (calls after back-off), or key_leaf
        (best candidates) if there are none

    Raises
    ------
    ValueError
        If the source has no such calls; the message lists those that it has.
    """
    columns = obs_columns(source)
    slots = Slots(key=key)
    chosen = name or (key if f"{key}_label" in columns else slots.leaf_label.removesuffix("_label"))
    if missing := [each for each in _columns_of(chosen) if each not in columns]:
        ends = [each.removesuffix("_ontology_term_id") for each in columns]
        calls = [each for each in ends if all(column in columns for column in _columns_of(each))]
        raise ValueError(
            f"obs has no column {missing[0]!r}; calls that it has: {', '.join(calls) or 'none'}; "
            f"annotate it first, or name its calls with {option('calls')}"
        )
    label_column, term_column = _columns_of(chosen)
    term_ids = _current(read_obs_column(source, term_column), ontology)
    labels = read_obs_column(source, label_column)
    confidence = f"{chosen}_confidence"
    return WrittenCalls(
        name=chosen,
        cell_names=_cell_names(source),
        labels=np.where(np.isin(labels, ["", UNASSIGNED]), UNKNOWN, labels),
        term_ids=term_ids,
        confidence=_numbers(source, confidence) if confidence in columns else None,
        notes=read_notes(source, key),
    )


def _numbers(source: "AnnData | str | Path", column: str) -> np.ndarray:
    """Return an obs column as float64, NaN for missing values, shape (n_cells,)."""
    words = read_obs_column(source, column)
    return np.where(words == "", "nan", words).astype(np.float64)


def _columns_of(name: str) -> tuple[str, str]:
    return f"{name}_label", f"{name}_ontology_term_id"


def _current(term_ids: np.ndarray, ontology: Ontology) -> np.ndarray:
    distinct, place = np.unique(term_ids.astype(str), return_inverse=True)
    current = [ontology.current(each) or "" for each in distinct]
    return np.array(current, dtype=object)[place]


def _cell_names(source: "AnnData | str | Path") -> np.ndarray:
    if not isinstance(source, str | Path):
        return source.obs_names.to_numpy().astype(object)
    with h5py.File(source, "r") as file:
        obs = file["obs"]
        return np.asarray(read_elem(obs[obs.attrs["_index"]])).astype(str).astype(object)


def read_notes(source: "AnnData | str | Path", key: str) -> Mapping[str, Any]:
    """Return the record of `annotate` in uns; empty if not annotated or not an h5ad file."""
    if not isinstance(source, str | Path):
        return source.uns.get(key, {})
    if not Path(source).is_file() or not h5py.is_hdf5(source):
        return {}
    with h5py.File(source, "r") as file:
        return read_elem(file[f"uns/{key}"]) if f"uns/{key}" in file else {}
