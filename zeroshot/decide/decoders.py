"""Decoders for an annotated AnnData, in place or on a copy, as in scanpy."""

from typing import TYPE_CHECKING, TypeVar

from langcell.counts.modality import modality_of
from zeroshot.decide.decoding import decode
from zeroshot.decide.options import STRENGTH, WORTH, DecodeOptions, Pooling

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

Annotated = TypeVar("Annotated", "AnnData", "MuData")


def smooth(
    adata: "Annotated",
    *,
    strength: float = STRENGTH,
    key_added: str = "langcell",
    modality: str | None = None,
    copy: bool = False,
) -> "Annotated | None":
    """Call each cell with the scores of its neighbours in view (`smooth_scores`).

    The graph is obsp["connectivities"] where scanpy.pp.neighbors made one, else the 15 nearest in
    obsm["X_langcell"].

    Parameters
    ----------
    adata: AnnData, or MuData with a modality, annotated with `zeroshot.annotate`
    strength: lambda; more makes neighbours agree more
    key_added: what the names of the annotation and of the new columns begin with
    modality: of a MuData, the one that was annotated
    copy: return a copy with the calls, and leave adata as it is

    Returns
    -------
    The copy, or None: obs gets langcell_smooth_label, langcell_smooth_ontology_term_id and
    langcell_smooth_confidence, the deepest term that is as sure as calls have to be, and
    langcell_smooth_leaf_label and its id, the best single type;
    uns["langcell"]["decoding"]["smooth"] says what changed.
    """
    return _run(adata, DecodeOptions(smooth=strength, key_added=key_added), modality, copy)


def consensus(
    adata: "Annotated",
    cluster_key: str = "auto",
    *,
    pooling: Pooling = "mean",
    smooth: float | None = None,
    key_added: str = "langcell",
    modality: str | None = None,
    copy: bool = False,
) -> "Annotated | None":
    """Call whole clusters by the pooled scores of their cells (`cluster_consensus`).

    Parameters
    ----------
    adata: AnnData, or MuData with a modality, annotated with `zeroshot.annotate`
    cluster_key: column of obs, such as "leiden"; "auto" makes clusters of obsm["X_langcell"]
    pooling: "mean" of probabilities or of their "log"
    smooth: lambda of smoothing before; None: none
    key_added, modality, copy: as in `smooth`

    Returns
    -------
    The copy, or None: obs gets columns as in `smooth` and langcell_cluster, and uns["langcell"]["decoding"]["cluster"]["calls"] has a row a cluster.
    """
    options = DecodeOptions(
        cluster_key=cluster_key, pooling=pooling, smooth=smooth, key_added=key_added
    )
    return _run(adata, options, modality, copy)


def assign(
    adata: "Annotated",
    within: str,
    *,
    cluster_key: str | None = None,
    worth: float | None = WORTH,
    smooth: float | None = None,
    key_added: str = "langcell",
    modality: str | None = None,
    copy: bool = False,
) -> "Annotated | None":
    """Give each label once within a group, by optimal assignment (`assign_labels`).

    Parameters
    ----------
    adata: AnnData, or MuData with a modality, annotated with `zeroshot.annotate`
    within: column of obs with the groups, such as a donor
    cluster_key: column of obs: labels go to the clusters in each group, not to single cells
    worth: what is less than `worth` times as probable as what the group likes best on average is
        not given, and the cells are called "unassigned"; None: all get a label
    smooth, key_added, modality, copy: as in `consensus`

    Returns
    -------
    The copy, or None: obs gets langcell_assigned_label, langcell_assigned_ontology_term_id and
    langcell_assigned_confidence, which is that of the label by the scores alone; such labels do
    not back off.
    """
    options = DecodeOptions(
        assign_within=within,
        cluster_key=cluster_key,
        worth=worth,
        smooth=smooth,
        key_added=key_added,
    )
    return _run(adata, options, modality, copy)


def _run(
    adata: "Annotated", options: DecodeOptions, modality: str | None, copy: bool
) -> "Annotated | None":
    adata = adata.copy() if copy else adata
    decode(modality_of(adata, modality), options)
    return adata if copy else None
