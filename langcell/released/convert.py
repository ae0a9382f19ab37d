"""Convert released LangCell and Geneformer weights to a langcell checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from langcell.checkpoints.checkpoint import Checkpoint, write_checkpoint
from langcell.checkpoints.hub import split_revision
from langcell.checkpoints.text_towers import load_tokenizer
from langcell.genes.vocabulary import GeneVocabulary
from langcell.released.geneformer import is_geneformer, read_geneformer
from langcell.released.official import is_official, read_official, with_tokens
from langcell.released.token_ids import ReleasedTokens, find_dictionaries, read_released_tokens
from langcell.runtime.parameter_names import option


@dataclass(frozen=True, kw_only=True)
class ConversionResult:
    """Result of a conversion.

    Attributes
    ----------
    checkpoint
        The written checkpoint.
    layout
        Detected kind of the source, such as "LangCell".
    without_median
        Genes with a token but no median. They are left out, since they cannot be ranked.
    """

    checkpoint: Checkpoint[Tensor]
    layout: str
    without_median: tuple[str, ...] = ()


def convert(
    source: Path,
    target: Path,
    *,
    token_dictionary: Path | None = None,
    gene_medians: Path | None = None,
    tokenizer: str = "",
    overwrite: bool = False,
) -> ConversionResult:
    """Convert a folder of released weights to a checkpoint: safetensors, TSV and JSON.

    Parameters
    ----------
    source
        Released LangCell (cell_bert/, text_bert/ and three .bin files) or a Geneformer model
        (config.json and weights).
    target
        Folder to write, atomically.
    token_dictionary, gene_medians
        .pkl, .json or .tsv of the same release; by default searched in the source. A LangCell folder
        may have a genes.tsv instead.
    tokenizer
        Folder or hub id (`owner/name@revision`) of the tokenizer of the text encoder; by default the
        one that LangCell uses.
    overwrite
        Replace an existing checkpoint at the target.

    Raises
    ------
    OSError
        If a file is missing, or the target exists.
    ValueError
        If the source is of another kind, or its parts do not fit each other.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder; pass a folder of released weights")
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists already; pass {option('overwrite', True)} to replace it"
        )
    named = token_dictionary, gene_medians
    if is_official(source):
        converted = _convert_langcell(source, named, tokenizer)
    elif is_geneformer(source):
        if tokenizer:
            raise ValueError(
                f"{source} is a Geneformer, which has no text encoder: leave out "
                f"{option('tokenizer')}"
            )
        converted = _convert_geneformer(source, named)
    else:
        raise ValueError(
            f"{source} is neither a released LangCell (cell_bert/ and text_bert/) nor a Geneformer "
            "model (a config.json with model_type bert, and its weights)"
        )
    write_checkpoint(target, converted.checkpoint, dtype=torch.float32)
    return converted


def _convert_langcell(
    source: Path, named: tuple[Path | None, Path | None], tokenizer: str
) -> ConversionResult:
    tokens: ReleasedTokens | None = None
    if any(named) or not (source / "genes.tsv").is_file():
        tokens = read_released_tokens(*find_dictionaries(source, *named), cls_is_last=True)
        checkpoint = with_tokens(read_official(source), tokens)
    else:
        genes = GeneVocabulary.read(source / "genes.tsv")
        checkpoint = read_official(source, vocabulary=genes)
    if tokenizer:
        checkpoint = _with_tokenizer(checkpoint, tokenizer)
    return ConversionResult(
        checkpoint=checkpoint,
        layout="LangCell",
        without_median=tokens.without_median if tokens else (),
    )


def _convert_geneformer(source: Path, named: tuple[Path | None, Path | None]) -> ConversionResult:
    tokens = read_released_tokens(*find_dictionaries(source, *named))
    kind = {"none": "V1: genes alone", "cls": "<cls>", "cls_eos": "V2: <cls> and <eos>"}
    return ConversionResult(
        checkpoint=read_geneformer(source, tokens),
        layout=f"Geneformer ({kind[tokens.special_tokens]})",
        without_median=tokens.without_median,
    )


def _with_tokenizer(checkpoint: Checkpoint[Tensor], tokenizer: str) -> Checkpoint[Tensor]:
    """Set another tokenizer, after checking that its vocabulary fits the text encoder."""
    folder = Path(tokenizer).expanduser()
    is_here = folder.is_dir()
    name, revision = (str(folder.resolve()), "") if is_here else split_revision(tokenizer)
    text = replace(checkpoint.config.text, tower=name, revision=revision)
    n_words = len(load_tokenizer(name, revision))
    if n_words > text.vocab_size:
        raise ValueError(
            f"tokenizer {name} has {n_words} tokens, but the text encoder has {text.vocab_size}: "
            "pass the tokenizer with which its weights were trained"
        )
    return replace(checkpoint, config=replace(checkpoint.config, text=text))
