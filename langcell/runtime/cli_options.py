"""Options that several commands share: one wording, one meaning."""

from pathlib import Path
from typing import Annotated

import typer

Cells = Annotated[Path, typer.Option(help="Input: .h5ad, .zarr, 10x .h5 or 10x mtx folder.")]
Model = Annotated[str, typer.Option(help="Bundled name, folder, or hub id, @revision or not.")]
Layer = Annotated[str | None, typer.Option(help="Layer of the raw counts, if not found.")]
AllowNormalized = Annotated[
    bool, typer.Option("--allow-normalized", help="Accept log1p, CPM or TPM values.")
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto takes a CUDA GPU if there is one.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Cells encoded at once. Default: what suits the device.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs and results that are there.")
]
