"""Text encoder: a BERT that encodes text, optionally with cross-attention to cell states."""

from torch import Tensor, nn

from langcell.nn.bert import Attended, BertEmbeddings, BertStack, init_weights, masked_mean
from langcell.nn.config import TextEncoderConfig


class TextEncoder(nn.Module):
    """Encode tokenised texts.

    The same weights are used in two modes: text alone, and text with cross-attention to cell states
    in every layer (the matching mode of LangCell, as in BLIP, arXiv 2201.12086).
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(
            config, vocab_size=config.vocab_size, max_positions=config.max_positions
        )
        width = config.encoder_width if config.cross_attention else 0
        self.stack = BertStack(config, encoder_width=width)
        self.apply(init_weights)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        cells: Attended | None = None,
        first_only: bool = False,
    ) -> Tensor:
        """Return the states of the last layer.

        Parameters
        ----------
        input_ids
            Token ids, shape (n_texts, t).
        attention_mask
            Shape (n_texts, t), nonzero for real tokens; None if there is no padding.
        cells
            Cell states for cross-attention; None for text alone.
        first_only
            Compute only position 0 of the last layer.

        Returns
        -------
        Tensor
            Shape (n_texts, t, hidden_size), or (n_texts, 1, hidden_size) with `first_only`.
        """
        if cells is not None and not self.config.cross_attention:
            raise ValueError("this text encoder has no cross-attention: leave out `cells`")
        packing = None if cells or first_only else self.stack.packing(attention_mask)
        if packing is not None:
            return packing.pad(self.stack(self.embeddings(input_ids, packing), packing))
        states = self.embeddings(input_ids)
        return self.stack(states, attention_mask, attended=cells, first_only=first_only)

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Pool states (n_texts, t, h) to (n_texts, h)."""
        if self.config.pooling == "cls":
            return states[:, 0]
        return masked_mean(states, attention_mask)
