"""Matching heads: classify whether a text describes a cell. Index 1 of the logits is 'match'."""

from torch import Tensor, nn

from langcell.nn.bert import Attended, BertStack, init_weights, masked_mean
from langcell.nn.config import MatchingConfig, TextEncoderConfig


class CrossAttentionMatching(nn.Linear):
    """Head of the paper: a linear layer on CLS of a text encoder with cross-attention to the cell."""

    def __init__(self, text: TextEncoderConfig) -> None:
        super().__init__(text.hidden_size, 2)
        init_weights(self)


class FusionMatching(nn.Module):
    """Small head on the states of a frozen text encoder.

    Text states are projected, then a few blocks attend within the text and to the cell. With
    `interaction`, the logits of a linear layer on the product of the two features are added. The
    head then starts from what the contrastive loss has learned; without it, training needs far more
    pairs than a run of a few CPU hours has.

    Parameters
    ----------
    config
        Sizes of the blocks, and pooling of the last states.
    text_width, cell_width
        Widths of the text and cell states.
    feature_width
        Width of the features; only used with `interaction`.
    """

    def __init__(
        self, config: MatchingConfig, *, text_width: int, cell_width: int, feature_width: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.text_in = nn.Linear(text_width, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.stack = BertStack(config, encoder_width=cell_width)
        self.head = nn.Linear(config.hidden_size, 2)
        self.interaction = nn.Linear(feature_width, 2, bias=False) if config.interaction else None
        self.apply(init_weights)

    def forward(
        self,
        text_states: Tensor,
        text_mask: Tensor | None,
        cells: Attended,
        product: Tensor | None = None,
    ) -> Tensor:
        """Score text i against the cell of row i in `cells`.

        Parameters
        ----------
        text_states
            Last states of the text encoder, shape (n, t, text_width).
        text_mask
            Shape (n, t), nonzero for real tokens; None if there is no padding.
        cells
            Cell states.
        product
            Product of the unit-norm features of text and cell, shape (n, feature_width); required
            with `interaction`.

        Returns
        -------
        Tensor
            Logits, shape (n, 2); index 1 is 'match'.
        """
        states = self.enter(text_states)
        states = self.stack(states, text_mask, attended=cells, first_only=self.first_only)
        return self.decide(states, text_mask, product)

    @property
    def first_only(self) -> bool:
        """Whether only position 0 of the last states is used."""
        return self.config.pooling == "cls"

    def enter(self, text_states: Tensor) -> Tensor:
        """Project text states (n, t, text_width) to the width of the blocks, (n, t, hidden)."""
        entered: Tensor = self.norm(self.text_in(text_states))
        return entered

    def decide(
        self, states: Tensor, text_mask: Tensor | None, product: Tensor | None = None
    ) -> Tensor:
        """Return logits (n, 2) from the last states of the blocks."""
        pooled = states[:, 0] if self.first_only else masked_mean(states, text_mask)
        logits: Tensor = self.head(pooled)
        if self.interaction is not None:
            if product is None:
                raise ValueError("a matching head with `interaction` needs the argument `product`")
            # Scaled, since the entries of a product of unit vectors shrink with the dimension.
            logits = logits + self.interaction(product * product.shape[-1])
        return logits
