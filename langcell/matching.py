"""Matching heads: does this text describe this cell? Index 1 of the logits is 'match'."""

from torch import Tensor, nn

from langcell.bert import Attended, BertStack, init_weights, masked_mean
from langcell.config import MatchingConfig, TextEncoderConfig


class CrossAttentionMatching(nn.Linear):
    """Head of the paper: a linear layer on CLS of a text encoder that attends to the cell."""

    def __init__(self, text: TextEncoderConfig) -> None:
        super().__init__(text.hidden_size, 2)
        init_weights(self)


class FusionMatching(nn.Module):
    """Light head over the states of a frozen text encoder.

    Text states are projected, then a few blocks attend within the text and to the cell.

    Parameters
    ----------
    config
        Sizes of the blocks, and how the last states are pooled.
    text_width, cell_width
        Widths of the states that come in.
    """

    def __init__(self, config: MatchingConfig, *, text_width: int, cell_width: int) -> None:
        super().__init__()
        self.config = config
        self.text_in = nn.Linear(text_width, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.stack = BertStack(config, encoder_width=cell_width)
        self.head = nn.Linear(config.hidden_size, 2)
        self.apply(init_weights)

    def forward(self, text_states: Tensor, text_mask: Tensor | None, cells: Attended) -> Tensor:
        """Score text i against the cell that row i of `cells` names.

        Parameters
        ----------
        text_states
            Last states of the text encoder, shape (n, t, text_width).
        text_mask
            Shape (n, t), nonzero where a token is real; None where all are.
        cells
            Cell states.

        Returns
        -------
        Tensor
            Logits, shape (n, 2); index 1 is 'match'.
        """
        first_only = self.config.pooling == "cls"
        states = self.norm(self.text_in(text_states))  # (n, t, hidden)
        states = self.stack(states, text_mask, attended=cells, first_only=first_only)
        pooled = states[:, 0] if first_only else masked_mean(states, text_mask)
        return self.head(pooled)
