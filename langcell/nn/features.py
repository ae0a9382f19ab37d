"""Outputs of the model for a batch of cells and a batch of texts."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CellFeatures:
    """Outputs for a batch of cells.

    Attributes
    ----------
    states
        Last hidden states, shape (n_cells, t, hidden); (n_cells, 1, hidden) with `cls_only`.
    attention_mask
        Shape (n_cells, t), nonzero for real tokens; None if there is no padding.
    pooled
        Pooled states before the projection, shape (n_cells, hidden).
    features
        Embeddings, unit norm, shape (n_cells, embedding_dim).
    """

    states: Tensor
    attention_mask: Tensor | None
    pooled: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """Outputs for a batch of texts; other fields as in `CellFeatures`.

    Attributes
    ----------
    input_ids
        Token ids, shape (n_texts, t); matching by cross-attention encodes the text again.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    states: Tensor
    pooled: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class LangCellOutput:
    """Outputs for cells and texts of one batch, and the scale of their similarity."""

    cells: CellFeatures
    texts: TextFeatures
    logit_scale: Tensor
