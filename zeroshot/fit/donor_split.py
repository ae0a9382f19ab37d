"""Whether a split of cells can tell a state from the donors that have it."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from langcell.counts.obs_columns import obs_columns, read_obs_column

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

# Names that columns of donors bear in public files, compared in lower case.
DONOR_COLUMNS = (
    *("donor", "donor_id", "patient", "patient_id", "sample", "sample_id"),
    *("individual", "individual_id", "subject", "subject_id"),
)


def check_donor_split(
    source: "AnnData | str | Path",
    codes: np.ndarray,
    *,
    label_key: str,
    group_key: str | None,
) -> None:
    """Refuse to judge by cells a label that all cells of a donor share.

    Cells of one donor would stand on both sides of the split, and a head that knows the donors would
    look as if it knew the label.

    Parameters
    ----------
    source: .h5ad, .zarr or AnnData
    codes: label of each cell, -1 for none, int, shape (n_cells,)
    label_key: column of obs that the labels are from
    group_key: column of obs that folds do not divide

    Raises
    ------
    ValueError
        That names the column to pass as group_key; or the label that one donor alone has.
    """
    is_labelled = codes >= 0
    labels = codes[is_labelled]
    groups = None if group_key is None else read_obs_column(source, group_key)[is_labelled]
    for column in obs_columns(source):
        if column in (label_key, group_key) or column.lower() not in DONOR_COLUMNS:
            continue
        donors = read_obs_column(source, column)[is_labelled]
        if not _tells_donors(donors) or not is_constant_within(labels, donors):
            continue
        if groups is None or not is_constant_within(groups, donors):
            how = (
                "no --group-key" if groups is None else f"obs[{group_key!r}], which divides donors"
            )
            raise ValueError(
                f"obs[{label_key!r}] is the same in all cells of each of {len(set(donors))} donors "
                f"(obs[{column!r}]), and {how}, would put cells of one donor on both sides of the "
                f"split: give --group-key {column}"
            )
    if groups is not None and is_constant_within(labels, groups):
        check_donors_of_labels(labels, groups, label_key=label_key, donor_key=str(group_key))


def check_donors_of_labels(
    labels: np.ndarray, donors: np.ndarray, *, label_key: str, donor_key: str
) -> None:
    """Refuse labels of donors where one donor alone has a label.

    Raises
    ------
    ValueError
        That names the donor.
    """
    for label in np.unique(labels):
        of_label = sorted(set(donors[labels == label]))
        if len(of_label) == 1:
            raise ValueError(
                f"all cells with one value of obs[{label_key!r}] are of one donor "
                f"(obs[{donor_key!r}] is {of_label[0]!r}), so that nothing tells the label from the "
                "donor: give two donors or more of each value"
            )


def is_constant_within(labels: np.ndarray, groups: np.ndarray) -> bool:
    """Tell whether all cells of a group have one label, in every group.

    >>> is_constant_within(np.array([0, 0, 1]), np.array(["a", "a", "b"]))
    True
    """
    pairs = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    return not pairs["group"].duplicated().any()


def _tells_donors(values: np.ndarray) -> bool:
    """Tell two values or more from a name for every cell."""
    return 2 <= len(set(values)) <= len(values) // 2
