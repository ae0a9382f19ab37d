"""Fit a head to labelled donors, each represented by the mean of its cells."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.obs_columns import read_obs_column
from langcell.model.embedder import Embedder
from langcell.nn import metrics
from langcell.runtime.parameter_names import option
from zeroshot.annotation.cell_scorer import Progress
from zeroshot.fit.donor_split import check_donors_of_labels, is_constant_within
from zeroshot.fit.fit_donor_head import donor_means, donors_held_out, fit_donor_head
from zeroshot.fit.fitted_head import FittedHead
from zeroshot.fit.labelled_cells import read_blocks, sample_labelled
from zeroshot.fit.options import FewShotOptions
from zeroshot.labels.label_column import LabelColumn

if TYPE_CHECKING:
    from anndata import AnnData


def check_donors(
    named: LabelColumn, groups: np.ndarray | None, label_key: str, options: FewShotOptions
) -> None:
    """Check that all cells of a donor have one label, and that each label has two donors.

    Raises
    ------
    ValueError
        If not, or if the kind of head or the donor column does not suit.
    """
    if groups is None:
        raise ValueError(
            "labels of donors need an obs column with two donors or more: pass "
            f"{option('group_key')}"
        )
    if options.kind not in ("auto", "linear"):
        raise ValueError(
            f"{option('target', 'donor')} needs a linear head, got "
            f"{option('kind', options.kind, flag='--head')}"
        )
    is_labelled = named.codes >= 0
    labels, donors = named.codes[is_labelled], groups[is_labelled]
    if not is_constant_within(labels, donors):
        raise ValueError(
            f"cells of one donor (obs[{options.group_key!r}]) differ in obs[{label_key!r}]: it is a "
            f"state of cells; pass {option('target', 'state')}"
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
    """Fit a head to the means of donors, and evaluate it on held-out donors."""
    keys = named.candidates.keys
    names, first = np.unique(np.where(named.codes < 0, "", groups).astype(str), return_index=True)
    codes = np.where(names == "", -1, named.codes[first])
    sampled = names[sample_labelled(codes, keys, options.shots, seed=options.seed)]
    rows = np.flatnonzero((named.codes >= 0) & np.isin(groups.astype(str), sampled))
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
    predicted = np.empty_like(labels)
    for unseen, log_probabilities in donors_held_out(donors, labels, keys):
        predicted[unseen] = log_probabilities.argmax(axis=1)
    return replace(
        fitted,
        held_out=f"{len(donors)} donors, cross-validated",
        accuracy=float(np.mean(predicted == labels)),
        macro_f1=metrics.macro_f1(labels, predicted, min_cells=1),
        majority_accuracy=metrics.majority_accuracy(labels),
    )
