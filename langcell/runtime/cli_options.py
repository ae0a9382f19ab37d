"""Options that several commands share: one wording, one meaning."""

from pathlib import Path
from typing import Annotated

import typer

INPUT = "Input: .h5ad, .zarr, 10x .h5 or 10x mtx folder."
# An input may be named with its flag or without it.
File = Annotated[Path | None, typer.Argument(help=INPUT, show_default=False)]
Files = Annotated[list[Path] | None, typer.Argument(help=INPUT, show_default=False)]
Cells = Annotated[Path | None, typer.Option("--h5ad", help="Input, given by its flag.")]
ManyCells = Annotated[list[Path] | None, typer.Option("--h5ad", help="Input, given by its flag.")]
Model = Annotated[
    str,
    typer.Option(
        help="Bundled model (see langcell models), folder, or hub id owner/name[@revision]."
    ),
]
Layer = Annotated[
    str | None, typer.Option(help="Layer of the raw counts. Default: found in X, raw.X or layers.")
]
AllowNormalized = Annotated[
    bool, typer.Option("--allow-normalized", help="Accept log1p, CPM or TPM values.")
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:1 or mps; auto takes a CUDA GPU if there is one, and the CPU for mini-fast."
    ),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Cells encoded at once. Default: chosen for the device.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs and results that are there.")
]


def one_input(file: Path | None, h5ad: Path | None) -> Path:
    """Return the input of a command, given with its flag or without."""
    if file is not None and h5ad is not None:
        raise typer.BadParameter(
            f"two inputs are named, {file} and {h5ad}; name one", param_hint="FILE"
        )
    return many_inputs([file] if file else None, [h5ad] if h5ad else None)[0]


def many_inputs(files: list[Path] | None, h5ad: list[Path] | None) -> list[Path]:
    """Return the inputs of a command, given with their flag or without."""
    inputs = [*(h5ad or ()), *(files or ())]
    if not inputs:
        raise typer.BadParameter("name the file to read", param_hint="FILE")
    return inputs
