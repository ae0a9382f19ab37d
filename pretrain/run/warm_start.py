"""Warm start: initialise a model with the weights of an earlier checkpoint."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langcell.checkpoints.checkpoint import (
    Checkpoint,
    read_checkpoint,
    read_weights,
    resolve_checkpoint,
)
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from langcell.nn.cell_encoder import CellEncoder
from langcell.nn.gene_bag import GeneBag
from langcell.released.official import is_official, read_official

# Tensors with one row per token; rows of genes are matched by Ensembl id.
_BY_TOKEN = (
    "cell_encoder.embeddings.token.weight",
    "cell_encoder.token.weight",
    "cell_encoder.masked_gene_head.bias",
)
_POSITIONS = "cell_encoder.embeddings.position.weight"
_TEXT_DEPENDENT = ("text_encoder.", "text_projection.", "matching.")
_N_SPECIAL = 3  # padding, mask and CLS


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Report of a warm start.

    Attributes
    ----------
    name
        Checkpoint.
    copied, unused, new
        Names of the weights that were copied, of those of the checkpoint that were not, and of
        those of the model that the checkpoint lacks.
    n_genes, n_known
        Genes of the model, and how many of them the checkpoint knows.
    """

    name: str
    copied: tuple[str, ...]
    unused: tuple[str, ...]
    new: tuple[str, ...]
    n_genes: int
    n_known: int

    def lines(self) -> Iterator[str]:
        """Yield lines that describe the warm start.

        >>> loaded = LoadedWeights(
        ...     name="x", copied=("a.b.c", "a.b.d"), unused=(), new=("a.e",), n_genes=9, n_known=7
        ... )
        >>> list(loaded.lines())
        ['starting from x: copied 2 tensors (a.b 2), 7 of 9 genes', 'new: 1 tensor (a.e 1)']
        """
        yield (
            f"starting from {self.name}: copied {_parts(self.copied)}, "
            f"{self.n_known:,} of {self.n_genes:,} genes"
        )
        for word, names in (("unused", self.unused), ("new", self.new)):
            if names:
                yield f"{word}: {_parts(names)}"


def _parts(names: Sequence[str]) -> str:
    """Count tensors by module."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    shown = ", ".join(f"{part} {n}" for part, n in counts.items())
    return f"{len(names)} tensor{'s' * (len(names) != 1)}" + (f" ({shown})" if shown else "")


def start_from(model: LangCell, name: str) -> LoadedWeights:
    """Copy the weights of a checkpoint into a model.

    From a checkpoint of the same kind, all weights of the same name and shape are copied. Genes,
    positions and modules that it lacks (a matching head of another size, a bag beside its
    transformer) keep their random weights. It needs only a cell encoder. A transformer can also
    start from a bag of genes, see `start_from_bag`.

    Parameters
    ----------
    model
        Untrained model.
    name
        Checkpoint, as `LangCell.from_pretrained` takes it.

    Raises
    ------
    ValueError
        If the checkpoint does not fit the model.
    """
    folder = resolve_checkpoint(name)
    earlier = (
        read_official(folder) if is_official(folder) else read_checkpoint(folder, read_weights)
    )
    ours, theirs = model.config.cell.kind, earlier.config.cell.kind
    if theirs == "bag" and ours == "transformer":
        return start_from_bag(model, LangCell.from_checkpoint(earlier, name), name)
    if ours != theirs:
        raise ValueError(f"model.start_from {name}: a bag of genes cannot start from a transformer")
    return _copy_weights(model, earlier, name)


@torch.no_grad()
def _copy_weights(model: LangCell, earlier: Checkpoint[Tensor], name: str) -> LoadedWeights:
    _check_compatible(model, earlier, name)
    assert earlier.vocabulary is not None
    rows = _common_tokens(model.genes, earlier.vocabulary)
    found = dict(earlier.tensors)
    if model.config.text.tower != earlier.config.text.tower:
        # Weights trained on the outputs of another tower are useless here.
        found = {key: each for key, each in found.items() if not key.startswith(_TEXT_DEPENDENT)}
    copied, new = [], []
    for key, tensor in model.state_dict().items():
        if key in found and key in _BY_TOKEN:
            tensor[rows[0]] = found[key][rows[1]]
        elif key in found and key == _POSITIONS:
            n = min(len(tensor), len(found[key]))
            tensor[:n] = found[key][:n]
        elif key in found and tensor.shape == found[key].shape:
            tensor.copy_(found[key])
        else:
            new.append(key)
            continue
        copied.append(key)
    return LoadedWeights(
        name=name,
        copied=tuple(copied),
        unused=tuple(sorted(earlier.tensors.keys() - set(copied))),
        new=tuple(new),
        n_genes=model.genes.n_genes,
        n_known=len(rows[0]) - _N_SPECIAL,
    )


def _check_compatible(model: LangCell, earlier: Checkpoint[Tensor], name: str) -> None:
    """Raise ValueError if the checkpoint does not fit the model."""
    if earlier.vocabulary is None:
        raise ValueError(f"model.start_from {name}: it has no gene table (genes.tsv)")
    ours, theirs = model.config.cell, earlier.config.cell
    required = ["hidden_size"] + ["n_heads", "hidden_act"] * (ours.kind == "transformer")
    for field in required:
        wanted, got = getattr(theirs, field), getattr(ours, field)
        if wanted != got:
            raise ValueError(
                f"model.start_from {name}: model.{field} must be {wanted}, as in that model, got {got}"
            )
    if model.config.text.frozen and not earlier.config.text.frozen:
        raise ValueError(
            f"model.start_from {name}: it has a trained text tower, which text.train: frozen would "
            "drop; set text.train to lora or full"
        )


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
def start_from_bag(model: LangCell, bag: LangCell, name: str) -> LoadedWeights:
    """Copy a trained bag of genes into the bag beside a transformer.

    The transformer's columns of the projection start at zero, so that the first features equal
    those of the bag.

    Parameters
    ----------
    model
        Transformer with a bag of the same sizes.
    bag
        Trained bag of genes over the same genes.
    name
        Name of the checkpoint in error messages.

    Raises
    ------
    ValueError
        If the checkpoint does not fit the model.
    """
    ours, theirs = model.config.cell, bag.config.cell
    wanted = (ours.hidden_size, ours.bag_size, model.config.embedding_dim)
    found = (theirs.hidden_size, theirs.bag_size, bag.config.embedding_dim)
    encoder = model.cell_encoder
    if not isinstance(bag.cell_encoder, GeneBag) or not isinstance(encoder, CellEncoder):
        raise ValueError(f"model.start_from {name}: a transformer starts from a bag of genes")
    if encoder.mix is None or wanted != found or model.genes.ensembl_ids != bag.genes.ensembl_ids:
        raise ValueError(
            f"model.start_from {name}: hidden_size, bag_size and embedding_dim must be {found}, got "
            f"{wanted}, and the genes must be the same"
        )
    encoder.gene_embeddings.copy_(bag.cell_encoder.gene_embeddings)
    encoder.mix.load_state_dict(bag.cell_encoder.mix.state_dict())
    model.logit_scale.copy_(bag.logit_scale)
    width = theirs.pooled_size
    projection, learnt = model.cell_projection, bag.cell_projection
    assert isinstance(projection, nn.Linear) and isinstance(learnt, nn.Linear)
    projection.weight[:, :width] = learnt.weight
    projection.weight[:, width:] = 0
    projection.bias.copy_(learnt.bias)
    own, known = model.state_dict(), bag.state_dict()
    names: tuple[str, ...] = ("cell_encoder.mix.", "cell_projection.", "logit_scale")
    if bag.config.has_texts and model.config.text.tower == bag.config.text.tower:
        model.text_projection.load_state_dict(bag.text_projection.state_dict())
        names += ("text_projection.",)
    copied = tuple(key for key in own if key.startswith(names) or key in _BY_TOKEN[:1])
    return LoadedWeights(
        name=name,
        copied=copied,
        unused=tuple(key for key in known if not key.startswith((*names, _BY_TOKEN[1]))),
        new=tuple(key for key in own if key not in copied),
        n_genes=model.genes.n_genes,
        n_known=model.genes.n_genes,
    )
