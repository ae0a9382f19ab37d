"""Model configuration, as stored in the config.json of a checkpoint."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

FORMAT_VERSION = 1

Activation = Literal["gelu", "gelu_new", "relu"]
Pooling = Literal["cls", "mean"]
CellEncoderKind = Literal["transformer", "bag"]
MatchingKind = Literal["cross_attention", "fusion"]
SpecialTokens = Literal["none", "cls", "cls_eos"]


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Sizes of a stack of BERT blocks."""

    hidden_size: int = 256
    n_layers: int = 4
    n_heads: int = 4
    intermediate_size: int = 1024
    hidden_act: Activation = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.hidden_act not in get_args(Activation):
            raise ValueError(
                f"hidden_act must be one of {', '.join(get_args(Activation))}, got {self.hidden_act!r}"
            )
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size must be a multiple of n_heads={self.n_heads}, got {self.hidden_size}"
            )


@dataclass(frozen=True, kw_only=True)
class CellEncoderConfig(StackConfig):
    """Configuration of the cell encoder, which reads gene tokens in rank order.

    A `transformer` is a BERT. A `bag` averages gene embeddings, weighted by rank, followed by one
    hidden layer of `bag_size`. A transformer with a `bag_size` has an additional bag, which also
    reads the genes beyond the transformer's positions.
    """

    kind: CellEncoderKind = "transformer"
    vocab_size: int  # genes + pad, mask and CLS, and EOS if used
    max_positions: int = 513  # genes and special tokens
    special_tokens: SpecialTokens = "cls"  # none in Geneformer V1, CLS and EOS in V2
    dropout: float = 0.02
    attention_dropout: float = 0.02
    pooling: Pooling = "cls"
    masked_gene_head: bool = True  # False for a checkpoint without one; a bag has none
    bag_size: int = 0  # 0: no bag in addition to the transformer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "bag" and not self.bag_size:
            raise ValueError("a bag of genes needs cell.bag_size, got 0")
        if self.bag_size and self.special_tokens != "cls":
            raise ValueError(
                f"a bag of genes needs cell.special_tokens 'cls', got {self.special_tokens!r}"
            )

    @property
    def n_special(self) -> int:
        """Number of special tokens added to the genes of a cell."""
        return {"none": 0, "cls": 1, "cls_eos": 2}[self.special_tokens]

    @property
    def n_genes(self) -> int:
        """Number of genes in the vocabulary: all tokens except pad, mask, CLS and EOS."""
        return self.vocab_size - 3 - (self.special_tokens == "cls_eos")

    @property
    def pooled_size(self) -> int:
        """Input width of the projection: of the bag, of the transformer, or of both."""
        bag = self.hidden_size + self.bag_size if self.bag_size else 0
        return bag + (self.hidden_size if self.kind == "transformer" else 0)


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(StackConfig):
    """Configuration of the text encoder, a BERT. The defaults are those of all-MiniLM-L6-v2."""

    # Packaged name, folder or hub id of tokenizer and weights; '': no text tower.
    tower: str = "all-MiniLM-L6-v2"
    revision: str = ""  # commit of a hub tower
    sha256: str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    frozen: bool = True  # not trained and not in the checkpoint; loaded from `tower`
    pooling: Pooling = "mean"
    max_tokens: int = 256
    vocab_size: int = 30522
    max_positions: int = 512
    hidden_size: int = 384
    n_layers: int = 6
    n_heads: int = 12
    intermediate_size: int = 1536
    cross_attention: bool = False  # to cell states, in every layer
    encoder_width: int = 0  # width of the cell states; 0 without cross-attention


NO_TEXTS = TextEncoderConfig(tower="", sha256="")


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(StackConfig):
    """Configuration of the matching head. The sizes apply only to the kind 'fusion'."""

    kind: MatchingKind = "fusion"
    n_layers: int = 2
    intermediate_size: int = 512
    pooling: Pooling = "mean"
    interaction: bool = False  # fusion also reads the product of the two features


@dataclass(frozen=True, kw_only=True)
class LangCellConfig:
    """Configuration of a `LangCell`.

    Raises
    ------
    ValueError
        If the parts do not fit each other.
    """

    cell: CellEncoderConfig
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    embedding_dim: int = 256
    max_genes: int = 512  # maximum number of genes per cell, without special tokens
    project_cells: bool = True  # False: features are the pooled cells, as in Geneformer
    logit_scale_init: float = math.log(1 / 0.05)  # log of the inverse temperature
    logit_scale_max: float = 100.0  # limit of the scale after exp
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(
                f"format_version must be {FORMAT_VERSION}, got {self.format_version!r}; "
                "the checkpoint was written by another version of langcell"
            )
        needed = self.max_genes + self.cell.n_special
        if needed > self.cell.max_positions and not self.cell.bag_size:
            raise ValueError(
                f"max_genes={self.max_genes} and {self.cell.n_special} special tokens need "
                f"cell.max_positions >= {needed}, got {self.cell.max_positions}"
            )
        if not self.project_cells and self.cell.kind == "bag":
            raise ValueError("a bag of genes needs project_cells=true")
        if not self.project_cells and self.embedding_dim != self.cell.pooled_size:
            raise ValueError(
                f"without project_cells embedding_dim must be {self.cell.pooled_size}, the width of "
                f"pooled cells, got {self.embedding_dim}"
            )
        if self.text.max_tokens > self.text.max_positions:
            raise ValueError(
                f"text.max_tokens={self.text.max_tokens} exceeds "
                f"text.max_positions={self.text.max_positions}"
            )
        if not self.has_texts and not self.text.frozen:
            raise ValueError("text.frozen=false needs a text tower, but text.tower is ''")
        self._check_cross_attention()

    @property
    def has_texts(self) -> bool:
        """Whether the model has a text tower, a text projection and a matching head."""
        return bool(self.text.tower)

    def check_has_texts(self) -> None:
        """Raise if the model has no text tower.

        Raises
        ------
        ValueError
            If the model has no text tower.
        """
        if not self.has_texts:
            raise ValueError(
                "the model has no text tower: it can only embed cells; train the second stage "
                "from it (langcell pretrain --config paper-stage2 model.start_from=FOLDER), or use "
                "another model"
            )

    def _check_cross_attention(self) -> None:
        if self.matching.kind == "cross_attention" and not self.text.cross_attention:
            raise ValueError(
                "matching.kind 'cross_attention' needs text.cross_attention=true; "
                "matching.kind 'fusion' works without"
            )
        if self.text.cross_attention and self.text.frozen:
            raise ValueError("text.cross_attention has weights to train; set text.frozen=false")
        if self.text.cross_attention and self.text.encoder_width != self.cell.hidden_size:
            raise ValueError(
                f"text.encoder_width must equal cell.hidden_size={self.cell.hidden_size}, "
                f"got {self.text.encoder_width}"
            )

    def to_json(self) -> str:
        """Return the configuration as JSON text."""
        values = asdict(self)
        if not self.has_texts:
            del values["matching"]
            values["text"] = {key: values["text"][key] for key in ("tower", "sha256")}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LangCellConfig":
        """Build a configuration from the parsed JSON of `to_json`.

        Raises
        ------
        ValueError
            If a key is unknown or missing, a value has the wrong type, or the format version
            differs.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            hint = "; for released weights, use langcell convert" if version is None else ""
            raise ValueError(
                f"not a langcell checkpoint of format {FORMAT_VERSION}: "
                f"format_version is {version!r}{hint}"
            )
        return _build(cls, _without_cells_only(values), "")

    @classmethod
    def read(cls, path: Path) -> "LangCellConfig":
        """Read a config.json; raise ValueError with the file name if it is invalid."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


Config = TypeVar("Config")


def _without_cells_only(values: dict[str, Any]) -> dict[str, Any]:
    """Replace the key `cells_only` of older checkpoints by `text.tower` and `project_cells`."""
    kept = {key: value for key, value in values.items() if key != "cells_only"}
    if values.get("cells_only"):
        kept |= {"text": {"tower": "", "sha256": ""}, "project_cells": False}
    return kept


def _build(cls: type[Config], values: dict[str, Any], where: str) -> Config:
    """Build a (nested) configuration from JSON values; `where` is the dotted path of its parent."""
    hints = get_type_hints(cls)
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown key {where}{unknown[0]}; known: {', '.join(sorted(known))}")
    try:
        return cls(**{key: _value(hints[key], given, where + key) for key, given in values.items()})
    except TypeError as error:
        raise ValueError(f"{where or 'config'}: {error}") from error


def _value(hint: Any, given: Any, key: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, StackConfig):
        if not isinstance(given, dict):
            raise ValueError(f"{key} must be an object, got {given!r}")
        return _build(hint, given, key + ".")
    if get_origin(hint) is Literal:
        if given not in get_args(hint):
            raise ValueError(f"{key} must be one of {', '.join(get_args(hint))}, got {given!r}")
        return given
    wanted = (int, float) if hint is float else hint
    if not isinstance(given, wanted) or (isinstance(given, bool) and hint is not bool):
        raise ValueError(f"{key} must be {hint.__name__}, got {given!r}")
    return given
