"""Check that a split of cells does not confuse a label with the donors that have it."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from langcell.counts.obs_columns import obs_columns, read_obs_column
from langcell.runtime.parameter_names import option

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

# Usual names of donor columns in public files, compared in lower case.
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
    """Refuse a split by cells if all cells of a donor have the same label.

    Cells of one donor would be in both training and held-out folds, so a head that recognises donors
    would seem to predict the label.

    Parameters
    ----------
    source: .h5ad, .zarr or AnnData
    codes: label of each cell, -1 for none, int, shape (n_cells,)
    label_key: column of obs that the labels are from
    group_key: column of obs whose groups are kept within one fold

    Raises
    ------
    ValueError
        If such a donor column is found; the message names it. Or if a label has only one donor.
    """
    is_labelled = codes >= 0
    labels = codes[is_labelled]
    groups = None if group_key is None else read_obs_column(source, group_key)[is_labelled]
    for column in obs_columns(source):
        if column in (label_key, group_key) or column.lower() not in DONOR_COLUMNS:
            continue
        donors = read_obs_column(source, column)[is_labelled]
        if not _looks_like_donors(donors) or not is_constant_within(labels, donors):
            continue
        if groups is None or not is_constant_within(groups, donors):
            how = (
                f"without {option('group_key')}"
                if groups is None
                else f"with {option('group_key', group_key)}, which splits donors,"
            )
            raise ValueError(
                f"obs[{label_key!r}] is the same in all cells of each of {len(set(donors))} donors "
                f"(obs[{column!r}]); {how} cells of one donor would be both trained on and held out: "
                f"pass {option('group_key', column)}"
            )
    if groups is not None and is_constant_within(labels, groups):
        check_donors_of_labels(labels, groups, label_key=label_key, donor_key=str(group_key))


def check_donors_of_labels(
    labels: np.ndarray, donors: np.ndarray, *, label_key: str, donor_key: str
) -> None:
    """Check that each label has at least two donors.

    Raises
    ------
    ValueError
        If one has a single donor; the message names the donor.
    """
    for label in np.unique(labels):
        of_label = sorted(set(donors[labels == label]))
        if len(of_label) == 1:
            raise ValueError(
                f"all cells with one value of obs[{label_key!r}] are of one donor "
                f"(obs[{donor_key!r}] is {of_label[0]!r}), so the label cannot be told from the "
                "donor: each value needs two donors or more"
            )


def is_constant_within(labels: np.ndarray, groups: np.ndarray) -> bool:
    """Return whether all cells of each group have the same label.

    >>> is_constant_within(np.array([0, 0, 1]), np.array(["a", "a", "b"]))
    True
    """
    pairs = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    return not pairs["group"].duplicated().any()


def _looks_like_donors(values: np.ndarray) -> bool:
    """Return whether there are at least two values, and on average two cells of each."""
    return 2 <= len(set(values)) <= len(values) // 2
