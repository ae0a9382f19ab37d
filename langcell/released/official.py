"""Read the released LangCell weights in their original layout (PharMolix/LangCell, MIT)."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from langcell.checkpoints.bert_weights import (
    find_weights,
    fuse_bert,
    read_json,
    read_sizes,
    read_tensors,
)
from langcell.checkpoints.checkpoint import Checkpoint
from langcell.checkpoints.tensor_shapes import check_tensors
from langcell.genes.vocabulary import GeneVocabulary
from langcell.nn.config import CellEncoderConfig, LangCellConfig, MatchingConfig, TextEncoderConfig
from langcell.released.token_ids import ReleasedTokens
from langcell.runtime.digest import sha256_of

# Tokenizer of the release; the weights of the text encoder are in text_bert/.
_TOKENIZER = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
_HEADS = {
    "cell_proj": "cell_projection",
    "text_proj": "text_projection",
    "ctm_head": "matching",
}


def is_official(folder: Path) -> bool:
    """Tell whether `folder` has the layout of the released LangCell."""
    return (folder / "cell_bert").is_dir() and (folder / "text_bert").is_dir()


def read_official(folder: Path, *, vocabulary: GeneVocabulary | None = None) -> Checkpoint[Tensor]:
    """Read cell_bert/, text_bert/, cell_proj, text_proj and ctm_head.

    The release has no masked-gene head, and its temperature is 0.05, not learned.

    Parameters
    ----------
    folder
        Each part is a .safetensors file or a .bin, whose pickle code is not run.
    vocabulary
        Gene vocabulary; by default read from genes.tsv in the folder, if there is one.

    Raises
    ------
    FileNotFoundError
        If a part is missing.
    ValueError
        If tensors are missing, unknown or of the wrong shape; the message names them.
    """
    if vocabulary is None and (folder / "genes.tsv").is_file():
        vocabulary = GeneVocabulary.read(folder / "genes.tsv")
    heads = {name: _read_head(folder, name) for name in _HEADS}
    config = _read_config(folder, embedding_dim=len(heads["cell_proj"]["weight"]))
    tensors = {"logit_scale": torch.tensor(config.logit_scale_init)}
    tensors |= _read_encoder(folder / "cell_bert", config.cell, "cell_encoder")
    tensors |= _read_encoder(folder / "text_bert", config.text, "text_encoder")
    out, cell, text = config.embedding_dim, config.cell.hidden_size, config.text.hidden_size
    shapes = {"cell_proj": (out, cell), "text_proj": (out, text), "ctm_head": (2, text)}
    for name, head in heads.items():
        wanted = {"weight": shapes[name], "bias": shapes[name][:1]}
        check_tensors(head, wanted, f"{folder / name}")
        tensors |= {f"{_HEADS[name]}.{kind}": tensor.float() for kind, tensor in head.items()}
    return Checkpoint(config=config, tensors=tensors, vocabulary=vocabulary, sha256=_sha256(folder))


def with_tokens(release: Checkpoint[Tensor], tokens: ReleasedTokens) -> Checkpoint[Tensor]:
    """Add the gene vocabulary to released weights and reorder them to langcell token ids.

    Raises
    ------
    ValueError
        If the token dictionary does not fit the weights.
    """
    cell, name = release.config.cell, "cell_encoder.embeddings.token.weight"
    if cell.vocab_size != tokens.n_rows:
        raise ValueError(
            f"cell_bert has {cell.vocab_size} tokens, but the token dictionary and CLS have "
            f"{tokens.n_rows}: pass the dictionary of the same release"
        )
    if tokens.special_tokens != "cls":
        raise ValueError(
            "LangCell reads <cls> and no <eos>: the token dictionary is from another model"
        )
    return replace(
        release,
        config=replace(release.config, cell=replace(cell, vocab_size=len(tokens.rows))),
        tensors=release.tensors | {name: tokens.take(release.tensors[name])},
        vocabulary=tokens.vocabulary,
    )


def _read_config(folder: Path, *, embedding_dim: int) -> LangCellConfig:
    cell = CellEncoderConfig(**read_sizes(folder / "cell_bert"), masked_gene_head=False)
    sizes = read_sizes(folder / "text_bert")
    path = folder / "text_bert" / "config.json"
    values = read_json(path)
    if not values.get("add_cross_attention") or "encoder_width" not in values:
        raise ValueError(f"{path} must set add_cross_attention and encoder_width")
    text = TextEncoderConfig(
        **sizes,
        tower=_TOKENIZER,
        sha256="",
        frozen=False,
        pooling="cls",
        max_tokens=sizes["max_positions"],
        cross_attention=True,
        encoder_width=values["encoder_width"],
    )
    return LangCellConfig(
        cell=cell,
        text=text,
        matching=MatchingConfig(kind="cross_attention"),
        embedding_dim=embedding_dim,
        max_genes=cell.max_positions - 1,
    )


def _read_encoder(
    folder: Path, config: CellEncoderConfig | TextEncoderConfig, ours: str
) -> dict[str, Tensor]:
    path = find_weights(folder)
    is_text = isinstance(config, TextEncoderConfig)
    fused = fuse_bert(
        read_tensors(path),
        config,
        str(path),
        has_token_types=not is_text,  # the release's text encoder has no such table
        has_cross_attention=is_text,
    )
    return {f"{ours}.{name}": tensor for name, tensor in fused.items()}


def _head_path(folder: Path, name: str) -> Path:
    for suffix in (".bin", ".safetensors"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    raise FileNotFoundError(f"{folder} has the layout of LangCell but no {name}.bin")


def _read_head(folder: Path, name: str) -> dict[str, Tensor]:
    head = read_tensors(_head_path(folder, name))
    if "weight" not in head:
        raise ValueError(f"{_head_path(folder, name)} has no tensor 'weight'")
    return head


def _sha256(folder: Path) -> str:
    """Return one SHA-256 for the five weight files: the hash of their hashes."""
    paths = [find_weights(folder / part) for part in ("cell_bert", "text_bert")]
    paths += [_head_path(folder, name) for name in _HEADS]
    return hashlib.sha256("".join(map(sha256_of, paths)).encode()).hexdigest()
