"""Read a Geneformer (Theodoris et al. 2023) in its Hugging Face format; it has no text encoder."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from langcell.checkpoints.bert_weights import find_weights, fuse_bert, read_sizes, read_tensors
from langcell.checkpoints.checkpoint import Checkpoint
from langcell.checkpoints.tensor_shapes import check_tensors
from langcell.nn.config import NO_TEXTS, CellEncoderConfig, LangCellConfig
from langcell.released.token_ids import ReleasedTokens
from langcell.runtime.digest import sha256_of

_HEAD = "cls.predictions."
_OURS = "cell_encoder.masked_gene_head."
_RENAMED = {
    "transform.dense.weight": "transform.weight",
    "transform.dense.bias": "transform.bias",
    "transform.LayerNorm.weight": "norm.weight",
    "transform.LayerNorm.bias": "norm.bias",
    "bias": "bias",
}


def is_geneformer(folder: Path) -> bool:
    """Tell whether `folder` has the layout of a Hugging Face BERT, as Geneformer models do."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("model_type") == "bert"


def read_geneformer(folder: Path, tokens: ReleasedTokens) -> Checkpoint[Tensor]:
    """Read config.json and the weights, with embeddings reordered to langcell token ids.

    A model without CLS (V1) is pooled by the mean over genes, as by its authors; a model with CLS
    (V2) is pooled at CLS. The features are the pooled states at unit norm.

    Parameters
    ----------
    folder
        Has model.safetensors or pytorch_model.bin; the pickle code of the latter is not run.
    tokens
        From the dictionaries of the same release.

    Raises
    ------
    FileNotFoundError
        If the weights are missing.
    ValueError
        If tensors are missing, unknown or of the wrong shape; the message names them.
    """
    path = find_weights(folder)
    tensors = read_tensors(path)
    released = CellEncoderConfig(**read_sizes(folder))
    if released.vocab_size != tokens.n_rows:
        raise ValueError(
            f"{folder / 'config.json'} has {released.vocab_size} tokens, but the token dictionary "
            f"has {tokens.n_rows}: pass the dictionary of the same release"
        )
    encoder = fuse_bert(tensors, released, str(path), has_token_types=True)
    encoder["embeddings.token.weight"] = tokens.take(encoder["embeddings.token.weight"])
    head = _masked_gene_head(tensors, released, str(path))
    if head:
        head[f"{_OURS}bias"] = tokens.take(head[f"{_OURS}bias"])
    cell = replace(
        released,
        vocab_size=len(tokens.rows),
        special_tokens=tokens.special_tokens,
        pooling="mean" if tokens.special_tokens == "none" else "cls",
        masked_gene_head=bool(head),
    )
    config = LangCellConfig(
        cell=cell,
        embedding_dim=cell.pooled_size,
        max_genes=cell.max_positions - cell.n_special,
        text=NO_TEXTS,
        project_cells=False,
    )
    weights = {f"cell_encoder.{name}": tensor for name, tensor in encoder.items()} | head
    weights["logit_scale"] = torch.tensor(config.logit_scale_init)
    return Checkpoint(
        config=config, tensors=weights, vocabulary=tokens.vocabulary, sha256=sha256_of(path)
    )


def _masked_gene_head(
    tensors: Mapping[str, Tensor], config: CellEncoderConfig, where: str
) -> dict[str, Tensor]:
    """Return the masked-gene head with langcell parameter names; {} if there is none."""
    given = {
        name.removeprefix(_HEAD): tensor
        for name, tensor in tensors.items()
        if name.startswith(_HEAD)
    }
    if not given:
        return {}
    decoder, decoder_bias = given.pop("decoder.weight", None), given.pop("decoder.bias", None)
    if decoder_bias is not None:
        given.setdefault("bias", decoder_bias)  # the same tensor under two names
    genes = next(each for name, each in tensors.items() if name.endswith("word_embeddings.weight"))
    if decoder is not None and not torch.equal(decoder, genes):
        raise ValueError(
            f"{where}: {_HEAD}decoder.weight must equal the word embeddings, to which the head is tied"
        )
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_RENAMED, (hidden,))
    shapes |= {"transform.dense.weight": (hidden, hidden), "bias": (config.vocab_size,)}
    check_tensors(given, shapes, where)
    return {f"{_OURS}{_RENAMED[name]}": tensor.float() for name, tensor in given.items()}
