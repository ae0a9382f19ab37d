"""Predict the label of each donor with a donor head."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.obs_columns import read_obs_column
from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.annotate.cell_scorer import Progress
from zeroshot.annotate.options import AnnotateOptions
from zeroshot.fit.donor_fit import mean_weights
from zeroshot.fit.labelled_cells import read_blocks
from zeroshot.heads.few_shot_head import DONOR, FewShotHead, normalised
from zeroshot.labels.candidates import own_candidates

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def call_donors(
    source: "AnnData | MuData | str | Path",
    head: FewShotHead,
    donor_key: str,
    *,
    type_key: str | None = None,
    model: "Embedder | str | Path" = "mini-fast",
    modality: str | None = None,
    options: AnnotateOptions | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Call each donor of a file, or of an AnnData.

    Parameters
    ----------
    source: .h5ad, .zarr or AnnData with counts
    head: from `zeroshot.fit_few_shot` with target "donor"
    donor_key: column of obs that tells donors apart; cells without a value are left out
    type_key: column of cell types; only of a head that was fitted with one
    model: that the head was fitted with, or its name, folder or hub id
    modality: of a MuData, the one with counts of RNA
    options: `layer`, `allow_normalized`, `device` and `batch_size` are read
    progress: called with the number of cells read and of all cells

    Returns
    -------
    A row for each donor: `label`, its `probability`, which is not calibrated, `n_cells`, and the
    probability of each label under its name

    Raises
    ------
    ValueError, OSError
        With one line that says what is wrong with the input, the head or the model.
    """
    import pandas as pd

    options, source = options or AnnotateOptions(), modality_of(source, modality)
    _check(head, type_key)
    donors = read_obs_column(source, donor_key)
    known = np.flatnonzero(donors != "")
    if not len(known):
        raise ValueError(f"no cell has a donor in obs[{donor_key!r}]: all are empty")
    types = None if type_key is None else read_obs_column(source, type_key)[known]
    candidates = own_candidates(head.keys, Ontology.bundled())
    if isinstance(model, str | Path):
        model = load_embedder(model, device=options.device)
    head.check_fits(model, candidates)
    names, weights = mean_weights(donors[known], types)
    shares = weights.tocsc()
    means = np.zeros((len(names), len(head.keys)))
    for block in read_blocks(source, known, model, options, progress):
        assert block.tokens is not None, "cells of a file have tokens"
        stop = block.start + len(block.features)
        means += shares[:, block.start : stop] @ head.log_odds(block.features, block.tokens)
    probabilities = np.exp(normalised(means))  # (n_donors, n_labels)
    best = probabilities.argmax(axis=1)
    table = pd.DataFrame(probabilities, columns=list(candidates.names))
    table.insert(0, "label", np.array(candidates.names, dtype=object)[best])
    table.insert(1, "probability", probabilities.max(axis=1))
    table.insert(2, "n_cells", np.diff(weights.indptr))
    return table.set_index(pd.Index(names, name="donor"))


def _check(head: FewShotHead, type_key: str | None) -> None:
    if head.target != DONOR:
        raise ValueError(
            f"the head calls the {head.target} of cells, not donors: annotate cells with it, or fit a "
            f"head with {option('target', 'donor')}"
        )
    if head.by_types and type_key is None:
        raise ValueError(
            "the head was fitted with cell types, each with the same weight: pass the obs column of "
            f"cell types as {option('type_key')}"
        )
    if not head.by_types and type_key is not None:
        raise ValueError(f"the head was fitted without cell types: leave out {option('type_key')}")
