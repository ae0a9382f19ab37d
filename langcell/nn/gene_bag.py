"""Bag of genes: a cell encoder that averages gene embeddings, weighted by rank."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell.nn.bert import init_weights
from langcell.nn.config import CellEncoderConfig


class GeneBag(nn.Module):
    """Encode cells without attention, at about 1 MFLOP per cell; a transformer needs 1,000.

    Used for training and for inference on a GPU. For inference on a CPU see
    `langcell.model.frozen_bag.FrozenBag`.

    The gene of rank r has weight 1 / log2(r + 2), the discount of ranked retrieval (Jarvelin and
    Kekalainen 2002, discounted cumulative gain). CLS and padding have weight 0.
    """

    def __init__(self, config: CellEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = BagMix(config)
        self.apply(init_weights)

    @property
    def gene_embeddings(self) -> Tensor:
        """Embedding of each token, shape (vocab_size, hidden_size)."""
        return self.token.weight

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, cls_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return states and pooled cells; arguments as in `CellEncoder.forward`.

        Returns
        -------
        tuple of Tensor
            The gene embeddings, used as states by matching, (n_cells, t, hidden_size), or
            (n_cells, 0, hidden_size) with `cls_only`; and the pooled cells, (n_cells, pooled_size).
        """
        states = self.token(input_ids[:, :0] if cls_only else input_ids)
        return states, self.mix(input_ids, attention_mask, self.token.weight)


class BagMix(nn.Module):
    """Weighted mean of gene embeddings, concatenated with one hidden layer on it."""

    def __init__(self, config: CellEncoderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.hidden = nn.Linear(config.hidden_size, config.bag_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, gene_embeddings: Tensor
    ) -> Tensor:
        """Return the mean embedding concatenated with the hidden layer.

        Parameters
        ----------
        input_ids
            CLS and gene tokens, shape (n_cells, t).
        attention_mask
            Shape (n_cells, t), nonzero for real tokens; None if there is no padding.
        gene_embeddings
            Shape (vocab_size, hidden_size).

        Returns
        -------
        Tensor
            Shape (n_cells, hidden_size + bag_size).
        """
        genes = input_ids[:, 1:]
        weights = 1 / torch.log2(torch.arange(genes.shape[1], device=genes.device) + 2.0)
        weights = weights.expand(genes.shape)  # (n_cells, t - 1)
        if attention_mask is not None:
            weights = weights * attention_mask[:, 1:]
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        # embedding_bag avoids the (n_cells, t, hidden) tensor.
        mean = functional.embedding_bag(
            genes, gene_embeddings, per_sample_weights=weights, mode="sum"
        )
        return self.beside_hidden(mean)

    def beside_hidden(self, mean: Tensor) -> Tensor:
        """Normalise the mean embedding (n_cells, hidden_size) and append the hidden layer."""
        mean = self.norm(mean)
        return torch.cat([mean, self.dropout(functional.gelu(self.hidden(mean)))], dim=1)
