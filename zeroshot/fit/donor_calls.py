"""Predict the label of each donor with a donor head."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.obs_columns import read_obs_column
from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.keywords import options_from, public
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import Progress
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.fit.fit_donor_head import mean_weights
from zeroshot.fit.labelled_cells import read_blocks
from zeroshot.heads.few_shot_head import DONOR, FewShotHead, log_softmax
from zeroshot.heads.head_hub import HasHead, as_head
from zeroshot.labels.candidates import own_candidates

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


@public
def call_donors(
    adata: "AnnData | MuData | str | Path",
    head: FewShotHead | HasHead | str | Path,
    donor_key: str,
    *,
    type_key: str | None = None,
    model: "Embedder | str | Path" = "mini-fast",
    layer: str | None = None,
    allow_normalized: bool = False,
    modality: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    options: AnnotateOptions | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Predict the label of each donor from all of its cells.

    Parameters
    ----------
    adata
        AnnData or MuData with raw counts, or path of an .h5ad, .zarr, 10x .h5 or 10x folder.
    head
        Head of `fit_few_shot` with target "donor", or its folder or hub id.
    donor_key
        obs column of donors; cells without a value are left out.
    type_key
        obs column of cell types; for a head that was fitted with one.
    model
        Model that the head was fitted with, or its name, folder or hub id.
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    modality
        Modality of a MuData with the counts of RNA.
    batch_size
        Cells encoded at once; chosen for the device by default.
    options
        An `AnnotateOptions` in place of the keywords from `layer` to `batch_size`.
    progress
        Called after each block with the number of cells done and of all cells.

    Returns
    -------
    pandas.DataFrame
        A row for each donor: `label`, its `probability` (not calibrated), `n_cells`, and the
        probability of each label under its name.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.call_donors(adata, "severity-head", "donor")  # doctest: +SKIP
    """
    import pandas as pd

    options = options_from(AnnotateOptions, options, {**locals(), "head": None})
    source, fitted = modality_of(adata, modality), as_head(head)
    assert fitted is not None, "a head is given"
    _check(fitted, type_key)
    donors = read_obs_column(source, donor_key)
    known = np.flatnonzero(donors != "")
    if not len(known):
        raise ValueError(f"no cell has a donor in obs[{donor_key!r}]: all are empty")
    types = None if type_key is None else read_obs_column(source, type_key)[known]
    candidates = own_candidates(fitted.keys, Ontology.bundled())
    if isinstance(model, str | Path):
        model = load_embedder(model, device=options.device)
    fitted.check_fits(model, candidates)
    names, weights = mean_weights(donors[known], types)
    shares = weights.tocsc()
    means = np.zeros((len(names), len(fitted.keys)))
    for block in read_blocks(source, known, model, options, progress):
        assert block.tokens is not None, "cells of a file have tokens"
        stop = block.start + len(block.features)
        means += shares[:, block.start : stop] @ fitted.log_odds(block.features, block.tokens)
    probabilities = np.exp(log_softmax(means))
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
