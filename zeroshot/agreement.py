"""How far calls agree with labels that a file has already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from langcell import metrics
from langcell.count_files import check_inputs
from langcell.mudata_file import refuse_mudata
from ontology.candidates import NEVER_CALLED, ROOT
from ontology.graph import Ontology
from ontology.labels import LabelResolver

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Labels of a file as Cell Ontology terms.

    Attributes
    ----------
    term_ids: id of each cell's label, '' where it has none, shape (n_cells,)
    unresolved: labels that name no one cell type, with their cells; those cells are not scored
    """

    term_ids: np.ndarray
    unresolved: dict[str, int]

    @property
    def n_scored(self) -> int:
        """Cells whose label is a cell type."""
        return int(np.sum(self.term_ids != ""))


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


def obs_columns(source: "AnnData | str | Path") -> list[str]:
    """Return the names of the columns of obs of an AnnData or h5ad file.

    Raises
    ------
    ValueError
        If the file is no h5ad.
    """
    if not isinstance(source, str | Path):
        return [str(name) for name in source.obs.columns]
    if not Path(source).is_file() or not h5py.is_hdf5(source):
        raise ValueError(f"{source} is no h5ad file")
    with h5py.File(source, "r") as file:
        refuse_mudata(file, str(source))
        if "obs" not in file or not hasattr(file["obs"], "keys"):
            raise ValueError(f"{source} has no table of cells, obs")
        return [str(name) for name in file["obs"].attrs["column-order"]]


def read_obs_column(source: "AnnData | str | Path", key: str) -> np.ndarray:
    """Return a column of obs as text, '' where it is empty, without reading the rest of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the source has no obs (10x files) or no such column.
    """
    if not isinstance(source, str | Path):
        return _as_text(_column(source.obs, list(source.obs.columns), key, "the AnnData"))
    path = Path(source)
    check_inputs(path)
    if not path.is_dir():
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path}: not an HDF5 file, so it has no column {key!r} in obs")
        with h5py.File(path, "r") as file:
            return _stored_column(file, key, path)
    if any((path / name).exists() for name in (".zgroup", "zarr.json")):
        return _stored_column(zarr.open_group(path, mode="r"), key, path)
    raise ValueError(f"{path} has no table of cells to take {key!r} from")


def _stored_column(group: Any, key: str, path: Path) -> np.ndarray:
    refuse_mudata(group, str(path))
    if "obs" not in group or not hasattr(group["obs"], "keys"):
        raise ValueError(f"{path} has no table of cells to take {key!r} from")
    obs = group["obs"]
    columns = [str(name) for name in obs.attrs["column-order"]]
    if key not in columns:
        _column({}, columns, key, str(path))
    return _as_text(read_elem(obs[key]))


def _column(table: Any, columns: Sequence[str], key: str, where: str) -> Any:
    if key not in columns:
        raise ValueError(
            f"{where} has no column {key!r} in obs; it has {', '.join(map(str, columns)) or 'none'}"
        )
    return table[key]


def _as_text(values: Any) -> np.ndarray:
    series = pd.Series(values).astype(object)
    return series.where(series.notna(), "").astype(str).to_numpy(dtype=object)


def named_truth(values: np.ndarray, key: str, ontology: Ontology) -> Truth:
    """Resolve a column of obs, and refuse one that names no cell type.

    Parameters
    ----------
    values: of the column, '' where it is empty, shape (n_cells,)
    key: its name
    ontology: a Cell Ontology release

    Raises
    ------
    ValueError
        If none of the values names one cell type.
    """
    truth = resolve_truth(values, ontology)
    if not truth.n_scored:
        some = ", ".join(map(repr, list(truth.unresolved)[:3])) or "empty values alone"
        raise ValueError(
            f"no label in obs[{key!r}] names one cell type of the Cell Ontology (it has {some}); give "
            "a column of names, synonyms or CL ids"
        )
    return truth


def resolve_truth(labels: np.ndarray, ontology: Ontology) -> Truth:
    """Resolve each distinct label; nothing is guessed."""
    distinct, place = np.unique(labels.astype(str), return_inverse=True)
    term_ids = []
    unresolved: dict[str, int] = {}
    for row, found in enumerate(LabelResolver(ontology).resolve(distinct)):
        known = found.term_id is not None and found.term_id not in NEVER_CALLED
        term_ids.append(str(found.term_id) if known else "")
        if not known and found.label.strip():
            unresolved[found.label] = int(np.sum(place == row))
    return Truth(term_ids=np.array(term_ids, dtype=object)[place], unresolved=unresolved)


def compare(truth: Truth, called_ids: np.ndarray, ontology: Ontology) -> Agreement:
    """Score calls against the truth.

    Parameters
    ----------
    truth: from `resolve_truth`
    called_ids: Cell Ontology id of each call, '' for free text, which is never right

    Raises
    ------
    ValueError
        If no label is a cell type.
    """
    scored = truth.term_ids != ""
    if not scored.any():
        raise ValueError(
            f"none of the labels is a cell type of the Cell Ontology: "
            f"{', '.join(list(truth.unresolved)[:5]) or 'all are empty'}"
        )
    true = _rows(truth.term_ids[scored], ontology)
    called = _rows(called_ids[scored], ontology)
    hierarchical = metrics.hierarchical_f1(
        true, called, ontology.closure, root=ontology.index.get(ROOT)
    )
    return Agreement(
        n_cells=len(true),
        n_types=len(np.unique(true)),
        accuracy=metrics.accuracy(true, called),
        macro_f1=metrics.macro_f1(true, called),
        macro_f1_all=metrics.macro_f1(true, called, min_cells=1),
        descendant_accuracy=metrics.descendant_accuracy(true, called, ontology.closure),
        hierarchical_f1=hierarchical.f1,
        majority_accuracy=metrics.majority_accuracy(true),
    )


def compare_calls(truth: Truth, called_ids: np.ndarray, ontology: Ontology) -> CallAgreement:
    """Score calls after back-off; arguments as in `compare`, '' for unknown.

    Figures of the calls made are NaN where there are none.
    """
    scored = truth.term_ids != ""
    true, called = (_rows(ids[scored], ontology) for ids in (truth.term_ids, called_ids))
    made = called >= 0
    if not made.any():
        nothing = float("nan")
        return CallAgreement(
            call_coverage=0.0, call_accuracy=nothing, call_exact=nothing, call_depth=nothing
        )
    true, called = true[made], called[made]
    return CallAgreement(
        call_coverage=float(made.mean()),
        # An ancestor of the truth is what the truth is a subtype of.
        call_accuracy=metrics.descendant_accuracy(called, true, ontology.closure),
        call_exact=metrics.accuracy(true, called),
        call_depth=float(np.mean([ontology.depth(ontology.ids[row]) for row in called])),
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
    true, called = _rows(true_ids, ontology), _rows(called_ids, ontology)
    # A call that the truth is a kind of: truth and call change places under the descendant rule.
    return metrics.is_descendant(called, true, ontology.closure)


def confusion(truth: Truth, called_names: np.ndarray, ontology: Ontology) -> pd.DataFrame:
    """Count the scored cells by true type (rows) and call (columns), most cells first."""
    scored = truth.term_ids != ""
    true_ids, true = np.unique(truth.term_ids[scored].astype(str), return_inverse=True)
    names, called = np.unique(called_names[scored].astype(str), return_inverse=True)
    table = metrics.confusion_table(true, called)
    return pd.DataFrame(
        table.counts,
        index=[ontology.terms[true_ids[row]].name for row in table.true_classes],
        columns=[names[column] for column in table.called_classes],
    )


def _rows(term_ids: np.ndarray, ontology: Ontology) -> np.ndarray:
    """Return the row of each id in the closure, -1 for none."""
    return np.array([ontology.index.get(str(term_id), -1) for term_id in term_ids], dtype=np.int64)
