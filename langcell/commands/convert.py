"""The command `langcell convert`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import Overwrite


def convert(
    source: Annotated[
        Path, typer.Argument(help="Folder of a released LangCell, or of a Geneformer V1 or V2.")
    ],
    dest: Annotated[Path, typer.Argument(help="Checkpoint folder to write.")],
    token_dictionary: Annotated[
        Path | None,
        typer.Option(help="Ensembl id to token: .pkl, .json or .tsv. Default: the one in SOURCE."),
    ] = None,
    gene_medians: Annotated[
        Path | None,
        typer.Option(help="Ensembl id to median, same formats. Default: the one in SOURCE."),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Tokenizer of LangCell's text encoder: a folder, or a hub id, optionally with "
            "@revision. Default: BiomedBERT's, downloaded when texts are first encoded."
        ),
    ] = "",
    overwrite: Overwrite = False,
) -> None:
    """Convert released LangCell or Geneformer weights to a checkpoint (safetensors, TSV and JSON).

    Example: langcell convert ckpt/ langcell-official --token-dictionary token_dictionary.pkl
    --gene-medians gene_median_dictionary.pkl

    No code in the source is run: pickles are read as plain values, weights as tensors. A converted
    LangCell annotates cells (langcell annotate --model DEST; --scoring official gives the score of
    the paper). A Geneformer has no text encoder: it embeds cells, and langcell pretrain can start
    from it.
    """
    from langcell.released.convert import convert as write_converted

    converted = write_converted(
        source,
        dest,
        token_dictionary=token_dictionary,
        gene_medians=gene_medians,
        tokenizer=tokenizer,
        overwrite=overwrite,
    )
    config = converted.checkpoint.config
    cell, text = config.cell, config.text
    texts = f"{text.n_layers} layers of {text.hidden_size}, tokenizer {text.tower}"
    print(f"layout\t{converted.layout}")
    print(f"genes\t{cell.n_genes:,}; at most {config.max_genes:,} per cell are read")
    if left_out := converted.without_median:
        print(f"left out\t{len(left_out):,} genes without a median, {left_out[0]} first")
    print(f"cell encoder\t{cell.n_layers} layers of {cell.hidden_size}, pooling {cell.pooling}")
    print(f"text encoder\t{texts if config.has_texts else 'none; the model can only embed cells'}")
    print(f"wrote\t{dest}")
