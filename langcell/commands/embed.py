"""The command `langcell embed`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import (
    AllowNormalized,
    BatchSize,
    Cells,
    Device,
    File,
    Layer,
    Model,
    Overwrite,
    Threads,
    one_input,
)


def embed(
    file: File = None,
    h5ad: Cells = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output: .h5ad, .npy or .parquet. "
            "Default: <name>.langcell.h5ad in the current folder."
        ),
    ] = None,
    model: Model = "mini-fast",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    threads: Threads = None,
    batch_size: BatchSize = None,
    key_added: Annotated[str, typer.Option(help="Name of the result: X_<name> in obsm.")] = (
        "langcell"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Embed the cells of a file: unit vectors, comparable with each other and with label texts.

    Example: langcell embed pbmc.h5ad --out pbmc.npy
    """
    from langcell.output.embedding_output import embed_file
    from langcell.runtime.progress import cell_progress
    from langcell.runtime.threads import set_threads

    h5ad = one_input(file, h5ad)
    set_threads(threads)
    target = out or Path.cwd() / f"{h5ad.resolve().stem}.langcell.h5ad"
    with cell_progress("embedding") as progress:
        embed_file(
            h5ad,
            target,
            model=model,
            device=device,
            layer=layer,
            allow_normalized=allow_normalized,
            batch_size=batch_size,
            key_added=key_added,
            overwrite=overwrite,
            progress=progress,
        )
    print(f"wrote\t{target}")
