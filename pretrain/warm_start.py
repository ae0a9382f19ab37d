"""Begin a transformer with what a bag of genes has learnt."""

import torch

from langcell.cell_encoder import CellEncoder
from langcell.gene_bag import GeneBag
from langcell.model import LangCell


@torch.no_grad()
def start_from_bag(model: LangCell, name: str) -> None:
    """Copy a trained bag into the bag beside a transformer, which at first adds nothing to it.

    The transformer's columns of the projection begin at zero, so that the first features are
    those of the bag.

    Parameters
    ----------
    model
        Transformer with a bag of the same sizes.
    name
        Checkpoint of a bag of genes over the same genes.

    Raises
    ------
    ValueError
        If the two do not fit each other.
    """
    bag = LangCell.from_pretrained(name)
    ours, theirs = model.config.cell, bag.config.cell
    wanted = (ours.hidden_size, ours.bag_size, model.config.embedding_dim)
    found = (theirs.hidden_size, theirs.bag_size, bag.config.embedding_dim)
    encoder = model.cell_encoder
    if not isinstance(bag.cell_encoder, GeneBag) or not isinstance(encoder, CellEncoder):
        raise ValueError(f"model.start_from {name}: a transformer starts from a bag of genes")
    if encoder.mix is None or wanted != found or model.genes.ensembl_ids != bag.genes.ensembl_ids:
        raise ValueError(
            f"model.start_from {name}: hidden_size, bag_size and embedding_dim must be {found}, "
            f"got {wanted}, and the genes the same"
        )
    encoder.gene_embeddings.copy_(bag.cell_encoder.gene_embeddings)
    encoder.mix.load_state_dict(bag.cell_encoder.mix.state_dict())
    model.text_projection.load_state_dict(bag.text_projection.state_dict())
    model.logit_scale.copy_(bag.logit_scale)
    width = theirs.pooled_size
    model.cell_projection.weight[:, :width] = bag.cell_projection.weight
    model.cell_projection.weight[:, width:] = 0
    model.cell_projection.bias.copy_(bag.cell_projection.bias)
