"""What the model makes of a batch of cells and of a batch of texts."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CellFeatures:
    """What the model makes of a batch of cells.

    Attributes
    ----------
    states
        Last states, shape (n_cells, t, hidden); (n_cells, 1, hidden) after `cls_only`.
    attention_mask
        Shape (n_cells, t), nonzero where a token is real; None where all are.
    pooled
        One vector a cell before the projection, shape (n_cells, hidden).
    features
        Unit norm, shape (n_cells, embedding_dim).
    """

    states: Tensor
    attention_mask: Tensor | None
    pooled: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """What the model makes of a batch of texts; fields as in `CellFeatures`.

    Attributes
    ----------
    input_ids
        Token ids, shape (n_texts, t): matching by cross-attention reads the text again.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    states: Tensor
    pooled: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class LangCellOutput:
    """Cells and texts of one step, and the scale of their similarity."""

    cells: CellFeatures
    texts: TextFeatures
    logit_scale: Tensor
