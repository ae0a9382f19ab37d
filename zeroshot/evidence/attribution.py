"""Attribute the similarity of a cell embedding and a direction to the genes of the cell."""

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
_BATCH_SIZE = 32


def token_features(model: LangCell, cells: Sequence[np.ndarray]) -> np.ndarray:
    """Encode cells given as gene tokens, highest rank first; read the first `max_genes` of each.

    Returns
    -------
    float32, unit norm, shape (n_cells, embedding_dim)
    """
    genes, n_read = model.genes, model.config.max_genes
    features = np.empty((len(cells), model.config.embedding_dim), dtype=np.float32)
    with inference(model):
        for first in range(0, len(cells), _BATCH_SIZE):
            lists = [tokens[:n_read] for tokens in cells[first : first + _BATCH_SIZE]]
            width = 2 + max(map(len, lists))  # padded: a GeneBag needs at least one token
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

    The effect of a gene is the similarity with it minus the similarity without it, so a gene that
    raises the similarity has a positive effect. For a `GeneBag` this is exact: the cell is encoded
    again without each gene, and lower-ranked genes move up. For a transformer it is a first-order
    approximation: the gradient at the gene's embedding times the difference of that embedding and
    the mean embedding of the cell.

    Parameters
    ----------
    model: any cell encoder
    cells: gene tokens of each cell, highest rank first; pass `max_genes` + 1 genes so that the next
        gene can replace the one that is left out
    directions: for each cell text features, or differences of two, float32, shape
        (n_directions, embedding_dim)

    Returns
    -------
    One float32 array per cell, shape (n_genes, n_directions), for the genes that the model reads
    """
    with inference(model):
        if isinstance(model.cell_encoder, GeneBag):
            pairs = zip(cells, directions, strict=True)
            return [
                _leave_one_out(model, model.cell_encoder, tokens, cell_directions)
                for tokens, cell_directions in pairs
            ]
        encoder = _EncoderModule(model)
        return [
            _first_order(model, encoder, tokens[: model.config.max_genes], cell_directions)
            for tokens, cell_directions in zip(cells, directions, strict=True)
        ]


def _leave_one_out(
    model: LangCell, encoder: GeneBag, tokens: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return the effect of each gene of a cell by encoding the cell without it, in one batch."""
    n_read = min(len(tokens), model.config.max_genes)
    if not n_read:
        return np.zeros((0, len(directions)), dtype=np.float32)
    genes = torch.from_numpy(tokens.astype(np.int64)).to(model.device)
    means = _means_without_each(encoder.token(genes))[:n_read]  # (n_read, hidden)
    with_cls = torch.cat([genes[:1], genes[:n_read]])[None]  # the first token is ignored
    whole = encoder.mix(with_cls, None, encoder.token.weight)  # (1, pooled)
    pooled = torch.cat([whole, encoder.mix.beside_hidden(means)])
    features = functional.normalize(model.cell_projection(pooled), dim=-1)
    similarities = features @ torch.from_numpy(directions).to(model.device).T
    return (similarities[:1] - similarities[1:]).cpu().numpy()


def _means_without_each(embeddings: Tensor) -> Tensor:
    """Return the rank-weighted mean (`GeneBag`) of the embeddings without each one, (n, hidden).

    Without gene i, genes before i keep their weight and genes after i take the weight of the rank
    before theirs. Cumulative sums from both ends give all means in one pass.
    """
    n = len(embeddings)
    weights = 1 / torch.log2(torch.arange(n - 1, device=embeddings.device) + 2.0)  # (n - 1,)
    zero = embeddings.new_zeros(1, embeddings.shape[1])
    before = torch.cat([zero, (weights[:, None] * embeddings[:-1]).cumsum(0)])
    after = torch.cat([(weights[:, None] * embeddings[1:]).flip(0).cumsum(0).flip(0), zero])
    return (before + after) / weights.sum().clamp(min=1e-6)


class _EncoderModule(nn.Module):
    """Cell encoder and projection as a module, so that `functional_call` can replace its weights."""

    def __init__(self, model: LangCell) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.model.encode_cell(input_ids, attention_mask, cls_only=True).features


def _first_order(
    model: LangCell, encoder: _EncoderModule, tokens: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """Return gradient times (embedding minus mean embedding) of each gene of a cell."""
    if not len(tokens):
        return np.zeros((0, len(directions)), dtype=np.float32)
    ids, _ = collate_tokens([tokens], cls_id=model.genes.cls_id, pad_id=model.genes.pad_id)
    # Each position gets its own row of the embedding table, so gradients are per position.
    embeddings = model.cell_encoder.gene_embeddings[torch.from_numpy(ids[0]).to(model.device)]
    embeddings = embeddings.detach().requires_grad_()  # (1 + n_genes, hidden)
    positions = torch.arange(len(embeddings), device=model.device)[None]
    with torch.enable_grad():
        features = functional_call(encoder, {_EMBEDDINGS: embeddings}, (positions, None))  # (1, d)
        similarities = (features @ torch.from_numpy(directions).to(model.device).T)[0]
        gradients = [
            torch.autograd.grad(each, embeddings, retain_graph=True)[0][1:] for each in similarities
        ]
    genes = embeddings.detach()[1:]
    weights = 1 / torch.log2(torch.arange(len(genes), device=model.device) + 2.0)
    mean = (weights[:, None] * genes).sum(0) / weights.sum()
    effects = [(gradient * (genes - mean)).sum(1) for gradient in gradients]
    return torch.stack(effects, dim=1).cpu().numpy()
