"""Smoothing, cluster consensus and assignment of an annotated AnnData, in place or on a copy."""

from typing import TYPE_CHECKING, TypeVar

from langcell.counts.modality import modality_of
from langcell.runtime.keywords import public
from zeroshot.decide.decoding import decode
from zeroshot.decide.options import STRENGTH, WORTH, DecodeOptions, Pooling

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

Annotated = TypeVar("Annotated", "AnnData", "MuData")


@public
def smooth(
    adata: "Annotated",
    *,
    strength: float = STRENGTH,
    key_added: str = "langcell",
    modality: str | None = None,
    copy: bool = False,
) -> "Annotated | None":
    """Label each cell again, with the scores of its neighbors smoothed over the kNN graph.

    The graph is obsp["connectivities"] of `scanpy.pp.neighbors` if there is one, else that of the 15
    nearest cells in obsm["X_langcell"].

    Parameters
    ----------
    adata
        AnnData annotated with `annotate`, or MuData with such a modality.
    strength
        Weight of the neighbors (lambda of the graph Laplacian); more is smoother.
    key_added
        Prefix of the annotation and of the new columns.
    modality
        Modality of a MuData that was annotated.
    copy
        Return a copy with the labels, and leave adata as it is.

    Returns
    -------
    AnnData or None
        The copy, if asked for. obs gets langcell_smooth_label with its id and confidence, and
        langcell_smooth_leaf_label with its id; uns["langcell"]["decoding"]["smooth"] says what changed.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.smooth(adata)  # doctest: +SKIP
    """
    return _run(adata, DecodeOptions(smooth=strength, key_added=key_added), modality, copy)


@public
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
    """Label whole clusters by the pooled scores of their cells.

    Parameters
    ----------
    adata
        AnnData annotated with `annotate`, or MuData with such a modality.
    cluster_key
        obs column with clusters, such as "leiden"; "auto" clusters obsm["X_langcell"].
    pooling
        Mean of the cells' probabilities ("mean") or of their logarithms ("log").
    smooth
        Strength of smoothing before pooling; None for none.
    key_added
        Prefix of the annotation and of the new columns.
    modality
        Modality of a MuData that was annotated.
    copy
        Return a copy with the labels, and leave adata as it is.

    Returns
    -------
    AnnData or None
        The copy, if asked for. obs gets langcell_cluster, langcell_cluster_label with its id and
        confidence; uns["langcell"]["decoding"]["cluster"]["calls"] has a row for each cluster.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.consensus(adata, "leiden")  # doctest: +SKIP
    """
    options = DecodeOptions(
        cluster_key=cluster_key, pooling=pooling, smooth=smooth, key_added=key_added
    )
    return _run(adata, options, modality, copy)


@public
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
    """Give each label to one cell or cluster of a group, by optimal assignment.

    Parameters
    ----------
    adata
        AnnData annotated with `annotate`, or MuData with such a modality.
    within
        obs column with the groups, such as the donor.
    cluster_key
        obs column with clusters that get the labels, in place of single cells.
    worth
        A label that is less than `worth` times as probable as the best ones of the group is not
        given, and the cells are "unassigned"; None gives all labels.
    smooth
        Strength of smoothing before; None for none.
    key_added
        Prefix of the annotation and of the new columns.
    modality
        Modality of a MuData that was annotated.
    copy
        Return a copy with the labels, and leave adata as it is.

    Returns
    -------
    AnnData or None
        The copy, if asked for. obs gets langcell_assigned_label with its id and confidence; these
        labels do not back off.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.assign(adata, "donor", cluster_key="leiden")  # doctest: +SKIP
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
