"""Convert BERT weights with Hugging Face names to the fused layout of `BertStack`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from langcell.checkpoints.tensor_shapes import check_tensors
from langcell.nn.config import CellEncoderConfig, TextEncoderConfig

# Heads of other tasks, and buffers in older files.
_IGNORED = ("cls.", "pooler.", "embeddings.position_ids")
_SIZES = {
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "hidden_size": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
}
_COUNTS = tuple(_SIZES)[:6]
_LARGEST = 1_000_000  # limit of any size, so that an untrusted file cannot exhaust memory


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors or PyTorch .bin file; the pickle code of a .bin is not run.

    Raises
    ------
    ValueError
        If the file cannot be read as tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a readable weights file: {reason}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError(f"{path} is not a readable weights file: expected a dict of tensors")
    return dict(tensors)


def read_sizes(folder: Path) -> dict[str, Any]:
    """Read the config.json of a Hugging Face BERT, with the key names of `StackConfig`.

    Raises
    ------
    ValueError
        If it is not a BERT with absolute positions, or a size is missing.
    """
    path = folder / "config.json"
    values = read_json(path)
    kind = values.get("model_type"), values.get("position_embedding_type", "absolute")
    if kind != ("bert", "absolute"):
        raise ValueError(f"{path} must describe a BERT with absolute positions, got {kind}")
    missing = sorted(set(_SIZES.values()) - set(values))
    if missing:
        raise ValueError(f"{path} has no key {missing[0]!r}")
    sizes = {ours: values[theirs] for ours, theirs in _SIZES.items()}
    for name in _COUNTS:
        if not isinstance(sizes[name], int) or not 0 < sizes[name] <= _LARGEST:
            raise ValueError(f"{path}: {_SIZES[name]} must be 1 to {_LARGEST}, got {sizes[name]!r}")
    return sizes


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ValueError with the file name if it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def find_weights(folder: Path) -> Path:
    """Return the weights file of a Hugging Face model folder, safetensors first."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def fuse_bert(
    tensors: Mapping[str, Tensor],
    config: CellEncoderConfig | TextEncoderConfig,
    where: str,
    *,
    has_token_types: bool,
    has_cross_attention: bool = False,
) -> dict[str, Tensor]:
    """Map the tensors of a Hugging Face BERT to the names of `CellEncoder` and `TextEncoder`.

    Query, key and value become one matrix. The embedding of token type 0, the only one in use, is
    added to the position embeddings.

    Parameters
    ----------
    tensors
        As read from the file; a prefix `bert.` and the old names gamma and beta are accepted.
    config
        Expected sizes.
    where
        File name for errors.
    has_token_types
        Whether the file must hold a token-type table (the text encoder of LangCell has none).
    has_cross_attention
        Whether every layer must hold cross-attention.

    Raises
    ------
    ValueError
        If tensors are missing, unknown or wrongly shaped.
    """
    given = _plain_names(tensors)
    n_layers = len({name.split(".")[2] for name in given if name.startswith("encoder.layer.")})
    if n_layers < config.n_layers:
        raise ValueError(f"{where} has {n_layers} layers, its config.json says {config.n_layers}")
    type_table = given.get("embeddings.token_type_embeddings.weight")
    n_types = 1 if type_table is None else len(type_table)
    shapes = _bert_shapes(config, n_types if has_token_types else 0, has_cross_attention)
    check_tensors(given, shapes, where)
    fused = {
        "embeddings.token.weight": given["embeddings.word_embeddings.weight"],
        "embeddings.position.weight": given["embeddings.position_embeddings.weight"],
        "embeddings.norm.weight": given["embeddings.LayerNorm.weight"],
        "embeddings.norm.bias": given["embeddings.LayerNorm.bias"],
    }
    if type_table is not None:
        fused["embeddings.position.weight"] = fused["embeddings.position.weight"] + type_table[0]
    for layer in range(config.n_layers):
        fused |= _fuse_layer(given, layer, has_cross_attention)
    return {name: tensor.float().contiguous() for name, tensor in fused.items()}


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("bert.")
        plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight")
        plain = plain.replace("LayerNorm.beta", "LayerNorm.bias")
        if not plain.startswith(_IGNORED):
            given[plain] = tensor
    return given


def _bert_shapes(
    config: CellEncoderConfig | TextEncoderConfig, n_types: int, has_cross_attention: bool
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors of a Hugging Face BERT of these sizes."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.max_positions, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    if n_types:
        shapes["embeddings.token_type_embeddings.weight"] = (n_types, hidden)
    widths = {"attention": hidden}
    if has_cross_attention:
        widths["crossattention"] = cast(TextEncoderConfig, config).encoder_width
    for layer in range(config.n_layers):
        linear = {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
        for block, width in widths.items():
            linear[f"{block}.self.query"] = (hidden, hidden)
            linear[f"{block}.self.key"] = linear[f"{block}.self.value"] = (hidden, width)
            linear[f"{block}.output.dense"] = (hidden, hidden)
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes[f"{prefix}{name}.weight"] = shape
            shapes[f"{prefix}{name}.bias"] = shape[:1]
        for name in (*(f"{block}.output" for block in widths), "output"):
            shapes[f"{prefix}{name}.LayerNorm.weight"] = (hidden,)
            shapes[f"{prefix}{name}.LayerNorm.bias"] = (hidden,)
    return shapes


def _fuse_layer(
    given: Mapping[str, Tensor], layer: int, has_cross_attention: bool
) -> dict[str, Tensor]:
    old, new = f"encoder.layer.{layer}.", f"stack.blocks.{layer}."
    fused = {}
    for kind in ("weight", "bias"):

        def joined(block: str, *parts: str, kind: str = kind) -> Tensor:
            return torch.cat([given[f"{old}{block}.self.{part}.{kind}"] for part in parts])

        renamed = {
            "attention.output": "attention.output.dense",
            "attention.norm": "attention.output.LayerNorm",
            "feed_forward.intermediate": "intermediate.dense",
            "feed_forward.output": "output.dense",
            "feed_forward.norm": "output.LayerNorm",
        }
        fused[f"{new}attention.query_key_value.{kind}"] = joined(
            "attention", "query", "key", "value"
        )
        if has_cross_attention:
            renamed["cross_attention.query"] = "crossattention.self.query"
            renamed["cross_attention.output"] = "crossattention.output.dense"
            renamed["cross_attention.norm"] = "crossattention.output.LayerNorm"
            fused[f"{new}cross_attention.key_value.{kind}"] = joined(
                "crossattention", "key", "value"
            )
        for ours, theirs in renamed.items():
            fused[f"{new}{ours}.{kind}"] = given[f"{old}{theirs}.{kind}"]
    return fused
