"""Cell encoder: a BERT over the genes of a cell in rank order, with CLS at position 0."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell.nn.bert import ACTIVATIONS, BertEmbeddings, BertStack, init_weights, masked_mean
from langcell.nn.config import CellEncoderConfig
from langcell.nn.gene_bag import BagMix


class MaskedGeneHead(nn.Module):
    """Predict the gene at each position; the decoder is tied to the gene embeddings."""

    def __init__(self, config: CellEncoderConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, states: Tensor, gene_embeddings: Tensor) -> Tensor:
        """Return logits over the vocabulary, from (..., h) and (vocab, h) to (..., vocab)."""
        states = self.norm(self.activation(self.transform(states)))
        return functional.linear(states, gene_embeddings, self.bias)


class CellEncoder(nn.Module):
    """Encode cells given as gene tokens in descending rank value.

    Position i holds the gene of rank i; position 0 holds CLS.
    """

    def __init__(self, config: CellEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(
            config, vocab_size=config.vocab_size, max_positions=config.max_positions
        )
        self.stack = BertStack(config)
        self.masked_gene_head = MaskedGeneHead(config) if config.masked_gene_head else None
        self.mix = BagMix(config) if config.bag_size else None
        self.apply(init_weights)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, cls_only: bool = False
    ) -> Tensor:
        """Return the states of the last layer.

        Parameters
        ----------
        input_ids
            Gene tokens, shape (n_cells, t).
        attention_mask
            Shape (n_cells, t), nonzero for real tokens; None if there is no padding.
        cls_only
            Compute only position 0 of the last layer.

        Returns
        -------
        Tensor
            Shape (n_cells, t, hidden_size), or (n_cells, 1, hidden_size) with `cls_only`.
        """
        packing = None if cls_only else self.stack.packing(attention_mask)
        if packing is not None:
            return packing.pad(self.stack(self.embeddings(input_ids, packing), packing))
        return self.stack(self.embeddings(input_ids), attention_mask, first_only=cls_only)

    @property
    def gene_embeddings(self) -> Tensor:
        """Embedding of each token, shape (vocab_size, hidden_size)."""
        return self.embeddings.token.weight

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, cls_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the states, as `forward`, and pooled cells, (n_cells, pooled_size).

        Tokens beyond `max_positions` have no states; only the bag reads them.
        """
        ids, mask = input_ids, attention_mask
        if self.mix is not None:
            ids = ids[:, : self.config.max_positions]
            mask = None if mask is None else mask[:, : self.config.max_positions]
        states = self(ids, mask, cls_only=cls_only and self.config.pooling == "cls")
        pooled = self.pool(states, mask)
        if self.mix is not None:
            bag = self.mix(input_ids, attention_mask, self.gene_embeddings)
            pooled = torch.cat([bag, pooled], dim=1)
        return states, pooled

    def pool(self, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Pool states (n_cells, t, h) to (n_cells, h)."""
        if self.config.pooling == "cls":
            return states[:, 0]
        return masked_mean(states, attention_mask)

    def masked_gene_logits(self, states: Tensor) -> Tensor:
        """Return logits over the vocabulary for each state, (..., h) to (..., vocab_size)."""
        if self.masked_gene_head is None:
            raise ValueError("this model has no masked-gene head (cell.masked_gene_head is false)")
        return self.masked_gene_head(states, self.gene_embeddings)
