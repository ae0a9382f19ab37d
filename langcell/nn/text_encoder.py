"""Text encoder: a BERT that reads text alone or together with the states of cells."""

from torch import Tensor, nn

from langcell.nn.bert import Attended, BertEmbeddings, BertStack, init_weights, masked_mean
from langcell.nn.config import TextEncoderConfig


class TextEncoder(nn.Module):
    """Encode token ids of descriptions.

    One set of weights serves two modes: text alone, and text that attends to cell states in every
    layer (the matching mode of LangCell, after BLIP, arXiv 2201.12086).
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
            Shape (n_texts, t), nonzero where a token is real; None where all are.
        cells
            Cell states to attend to; None for text alone.
        first_only
            Compute only position 0 of the last layer.

        Returns
        -------
        Tensor
            Shape (n_texts, t, hidden_size), or (n_texts, 1, hidden_size) with `first_only`.
        """
        if cells is not None and not self.config.cross_attention:
            raise ValueError("this text encoder has no cross-attention to read cells with")
        packing = None if cells or first_only else self.stack.packing(attention_mask)
        if packing is not None:
            return packing.pad(self.stack(self.embeddings(input_ids, packing), packing))
        states = self.embeddings(input_ids)
        return self.stack(states, attention_mask, attended=cells, first_only=first_only)

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Reduce states (n_texts, t, h) to one vector a text, (n_texts, h)."""
        if self.config.pooling == "cls":
            return states[:, 0]
        return masked_mean(states, attention_mask)
