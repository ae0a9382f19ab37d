"""Begin with what an earlier model has learnt."""

import torch
from torch import Tensor, nn

from langcell.cell_encoder import CellEncoder
from langcell.gene_bag import GeneBag
from langcell.genes import GeneVocabulary
from langcell.model import LangCell

# Tensors with a row a token; the rows of genes are found by their Ensembl ids.
_BY_TOKEN = (
    "cell_encoder.embeddings.token.weight",
    "cell_encoder.token.weight",
    "cell_encoder.masked_gene_head.bias",
)
_POSITIONS = "cell_encoder.embeddings.position.weight"


def start_from(model: LangCell, name: str) -> None:
    """Copy the weights of a checkpoint into a model.

    Of a checkpoint of the same kind all that has the same name is taken: genes that it does not
    know keep their random start, and so do further positions and parts that it has not (a matching
    head of another size, a bag beside its transformer). A transformer can start from a bag of genes
    too, see `start_from_bag`.

    Parameters
    ----------
    model
        Untrained.
    name
        Checkpoint, as `LangCell.from_pretrained` takes it.

    Raises
    ------
    ValueError
        If the two do not fit each other.
    """
    earlier = LangCell.from_pretrained(name)
    if isinstance(earlier.cell_encoder, GeneBag) and isinstance(model.cell_encoder, CellEncoder):
        start_from_bag(model, earlier, name)
    elif type(earlier.cell_encoder) is type(model.cell_encoder):
        _take_over(model, earlier, name)
    else:
        raise ValueError(f"model.start_from {name}: a bag of genes cannot start from a transformer")


@torch.no_grad()
def _take_over(model: LangCell, earlier: LangCell, name: str) -> None:
    for size in ("hidden_size", "n_heads", "hidden_act"):
        ours, theirs = getattr(model.config.cell, size), getattr(earlier.config.cell, size)
        # A bag attends to nothing: it has a width alone.
        if ours != theirs and (size == "hidden_size" or model.config.cell.kind != "bag"):
            raise ValueError(
                f"model.start_from {name}: model.{size} must be its {theirs}, got {ours}"
            )
    rows = _common_tokens(model.genes, earlier.genes)
    found = earlier.state_dict()
    for key, tensor in model.state_dict().items():
        if key not in found:
            continue
        if key in _BY_TOKEN:
            tensor[rows[0]] = found[key][rows[1]]
        elif key == _POSITIONS:
            n = min(len(tensor), len(found[key]))
            tensor[:n] = found[key][:n]
        elif tensor.shape == found[key].shape:
            tensor.copy_(found[key])


def _common_tokens(ours: GeneVocabulary, theirs: GeneVocabulary) -> tuple[Tensor, Tensor]:
    """Return the tokens of the same genes, and of padding, mask and CLS, in both vocabularies."""
    in_theirs = theirs.token_ids(ours.ensembl_ids)
    known = in_theirs >= 0
    own = ours.token_ids(ours.ensembl_ids)[known]
    special = [(each.pad_id, each.mask_id, each.cls_id) for each in (ours, theirs)]
    return (
        torch.tensor([*special[0], *own.tolist()]),
        torch.tensor([*special[1], *in_theirs[known].tolist()]),
    )


@torch.no_grad()
def start_from_bag(model: LangCell, bag: LangCell, name: str) -> None:
    """Copy a trained bag into the bag beside a transformer, which at first adds nothing to it.

    The transformer's columns of the projection begin at zero, so that the first features are
    those of the bag.

    Parameters
    ----------
    model
        Transformer with a bag of the same sizes.
    bag
        Trained bag of genes over the same genes.
    name
        What to call it in an error.

    Raises
    ------
    ValueError
        If the two do not fit each other.
    """
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
    projection, learnt = model.cell_projection, bag.cell_projection
    assert isinstance(projection, nn.Linear) and isinstance(learnt, nn.Linear)
    projection.weight[:, :width] = learnt.weight
    projection.weight[:, width:] = 0
    projection.bias.copy_(learnt.bias)
