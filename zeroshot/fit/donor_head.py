"""From labelled donors to a head: each donor is the mean of its cells."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.obs_columns import read_obs_column
from langcell.model.embedder import Embedder
from langcell.nn import metrics
from zeroshot.annotation.cell_scorer import Progress
from zeroshot.fit.donor_fit import donor_means, donors_held_out, fit_donor_head
from zeroshot.fit.donor_split import check_donors_of_labels, is_constant_within
from zeroshot.fit.fitted_head import FittedHead
from zeroshot.fit.labelled_cells import read_blocks, sample_labelled
from zeroshot.fit.options import FewShotOptions
from zeroshot.labels.label_column import LabelColumn

if TYPE_CHECKING:
    from anndata import AnnData


def check_donors(
    named: LabelColumn, groups: np.ndarray | None, label_key: str, options: FewShotOptions
) -> None:
    """Refuse a label of donors that is none, or that nothing tells from the donors."""
    if groups is None:
        raise ValueError("a donor's label needs a column of two donors or more: give --group-key")
    if options.kind not in ("auto", "linear"):
        raise ValueError(f"donors are told apart by a linear head, got {options.kind!r}")
    is_labelled = named.codes >= 0
    labels, donors = named.codes[is_labelled], groups[is_labelled]
    if not is_constant_within(labels, donors):
        raise ValueError(
            f"cells of one donor (obs[{options.group_key!r}]) differ in obs[{label_key!r}]: that is "
            "a state of cells, --target state"
        )
    check_donors_of_labels(labels, donors, label_key=label_key, donor_key=str(options.group_key))


def fit_donors(
    source: "AnnData | str | Path",
    named: LabelColumn,
    groups: np.ndarray,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> FittedHead:
    """Fit a head to the means of donors, and judge it on donors that it did not see."""
    keys = named.candidates.keys
    names, first = np.unique(np.where(named.codes < 0, "", groups).astype(str), return_index=True)
    codes = np.where(names == "", -1, named.codes[first])
    drawn = names[sample_labelled(codes, keys, options.shots, seed=options.seed)]
    rows = np.flatnonzero((named.codes >= 0) & np.isin(groups.astype(str), drawn))
    types = None if options.type_key is None else read_obs_column(source, options.type_key)[rows]
    blocks = read_blocks(source, rows, model, options, progress)
    donors = donor_means(blocks, groups[rows], types)
    labels = codes[np.searchsorted(names, donors.names)]
    fitted = FittedHead(
        head=replace(
            fit_donor_head(donors, labels, keys, by_types=types is not None),
            model_sha256=model.sha256,
        ),
        names=named.candidates.names,
        as_text=(),
        n_without=int(np.sum(named.codes < 0)),
    )
    if np.bincount(labels).min() < 2:
        return fitted
    called = np.empty_like(labels)
    for some, log_probabilities in donors_held_out(donors, labels, keys):
        called[some] = log_probabilities.argmax(axis=1)
    return replace(
        fitted,
        held_out=f"{len(donors)} donors in turns",
        accuracy=float(np.mean(called == labels)),
        macro_f1=metrics.macro_f1(labels, called, min_cells=1),
        majority_accuracy=metrics.majority_accuracy(labels),
    )
