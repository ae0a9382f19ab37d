"""How much each gene of a cell adds to its similarity with directions of the common space."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.gene_bag import GeneBag
from langcell.tokens.tokenizer import collate_tokens

_EMBEDDINGS = "model.cell_encoder.embeddings.token.weight"
_BATCH = 32  # cells encoded at once


def token_features(model: LangCell, cells: Sequence[np.ndarray]) -> np.ndarray:
    """Encode cells given as gene tokens, highest rank first; those beyond `max_genes` are not read.

    Returns
    -------
    float32, unit norm, shape (n_cells, embedding_dim)
    """
    genes, n_read = model.genes, model.config.max_genes
    features = np.empty((len(cells), model.config.embedding_dim), dtype=np.float32)
    with inference(model):
        for first in range(0, len(cells), _BATCH):
            lists = [tokens[:n_read] for tokens in cells[first : first + _BATCH]]
            width = 2 + max(map(len, lists))  # room for padding: a bag reads at least one token
            ids, mask = collate_tokens(
                lists, cls_id=genes.cls_id, pad_id=genes.pad_id, width=min(width, n_read + 1)
            )
            batch = (torch.from_numpy(each).to(model.device) for each in (ids, mask))
            encoded = model.encode_cell(*batch, cls_only=True)
            features[first : first + len(lists)] = encoded.features.cpu().numpy()
    return features


def gene_effects(
    model: LangCell, cells: Sequence[np.ndarray], directions: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Attribute the similarity of cells and directions to the genes of each cell.

    The effect of a gene is what the similarity loses without it: positive where it raises it. A
    bag of genes is encoded again without each gene, which moves up those of lower rank: exact. A
    transformer is taken to first order: the gradient at a gene's embedding times its difference
    from the mean embedding of the cell, which would take its place in the mean.

    Parameters
    ----------
    model: any; its directions are features of texts, or differences of two
    cells: gene tokens of each cell, highest rank first; one gene more than `max_genes` lets the
        next gene in where one is left out
    directions: of each cell, float32, shape (n_directions, embedding_dim)

    Returns
    -------
    One array a cell, float32, shape (n_genes, n_directions), of the genes that the model reads
    """
    with inference(model):
        if isinstance(model.cell_encoder, GeneBag):
            pairs = zip(cells, directions, strict=True)
            return [
                _left_out(model, model.cell_encoder, tokens, wanted) for tokens, wanted in pairs
            ]
        encoded = _Encoded(model)
        return [
            _first_order(model, encoded, tokens[: model.config.max_genes], wanted)
            for tokens, wanted in zip(cells, directions, strict=True)
        ]


def _left_out(
    model: LangCell, encoder: GeneBag, tokens: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Encode a cell without each of its genes, all at once."""
    n_read = min(len(tokens), model.config.max_genes)
    if not n_read:
        return np.zeros((0, len(directions)), dtype=np.float32)
    genes = torch.from_numpy(tokens.astype(np.int64)).to(model.device)
    means = _means_without_each(encoder.token(genes))[:n_read]  # (n_read, hidden)
    with_cls = torch.cat([genes[:1], genes[:n_read]])[None]  # whatever stands first is not read
    whole = encoder.mix(with_cls, None, encoder.token.weight)  # (1, pooled)
    pooled = torch.cat([whole, encoder.mix.beside_hidden(means)])
    features = functional.normalize(model.cell_projection(pooled), dim=-1)
    similarities = features @ torch.from_numpy(directions).to(model.device).T
    return (similarities[:1] - similarities[1:]).cpu().numpy()


def _means_without_each(embeddings: Tensor) -> Tensor:
    """Return the rank-weighted mean (`GeneBag`) of all embeddings but each, (n, hidden).

    A gene keeps its weight where a lower one leaves, and takes that of the rank above where a
    higher one does: sums from both ends give all means in one pass.
    """
    n = len(embeddings)
    weights = 1 / torch.log2(torch.arange(n - 1, device=embeddings.device) + 2.0)  # (n - 1,)
    zero = embeddings.new_zeros(1, embeddings.shape[1])
    above = torch.cat([zero, (weights[:, None] * embeddings[:-1]).cumsum(0)])
    below = torch.cat([(weights[:, None] * embeddings[1:]).flip(0).cumsum(0).flip(0), zero])
    return (above + below) / weights.sum().clamp(min=1e-6)


class _Encoded(nn.Module):
    """Cells to features as a module of its own, whose parameters can be put in the place of."""

    def __init__(self, model: LangCell) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.model.encode_cell(input_ids, attention_mask, cls_only=True).features


def _first_order(
    model: LangCell, encoded: _Encoded, tokens: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return gradient times (embedding less mean embedding) of each gene of a cell."""
    if not len(tokens):
        return np.zeros((0, len(directions)), dtype=np.float32)
    ids, _ = collate_tokens([tokens], cls_id=model.genes.cls_id, pad_id=model.genes.pad_id)
    # Every position gets an embedding of its own, so that gradients are those of positions.
    own = model.cell_encoder.gene_embeddings[torch.from_numpy(ids[0]).to(model.device)]
    own = own.detach().requires_grad_()  # (1 + n_genes, hidden)
    places = torch.arange(len(own), device=model.device)[None]
    with torch.enable_grad():
        features = functional_call(encoded, {_EMBEDDINGS: own}, (places, None))  # (1, d)
        similarities = (features @ torch.from_numpy(directions).to(model.device).T)[0]
        gradients = [
            torch.autograd.grad(each, own, retain_graph=True)[0][1:] for each in similarities
        ]
    genes = own.detach()[1:]
    weights = 1 / torch.log2(torch.arange(len(genes), device=model.device) + 2.0)
    mean = (weights[:, None] * genes).sum(0) / weights.sum()
    effects = [(gradient * (genes - mean)).sum(1) for gradient in gradients]
    return torch.stack(effects, dim=1).cpu().numpy()
