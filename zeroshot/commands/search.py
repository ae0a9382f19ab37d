"""The command `langcell search`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import (
    AllowNormalized,
    BatchSize,
    Cells,
    Device,
    Layer,
    Model,
    Overwrite,
    Threads,
)

EXAMPLE = """Find the cells of a file that fit words, and say "none" where none do.

Example: langcell search pbmc.h5ad "exhausted CD8 T cells" "NK cell" --out hits.csv

Prints, for each query, how it was read, its hits and its best cell. A hit has a false discovery
rate of at most --fdr and log-odds of at least --floor against all other cell types' descriptions.
"""


def search(
    file: Annotated[
        str, typer.Argument(help="Input, as of langcell embed; with --h5ad the first query.")
    ],
    queries: Annotated[
        list[str] | None,
        typer.Argument(help="Names, synonyms or CL ids; any other words are free text."),
    ] = None,
    h5ad: Cells = None,
    out: Annotated[
        Path | None, typer.Option(help="The listed cells: .csv or .parquet. Default: printed.")
    ] = None,
    top: Annotated[int, typer.Option(help="Cells to list for each query.")] = 50,
    fdr: Annotated[float, typer.Option(help="False discovery rate up to which cells are hits.")] = (
        0.05
    ),
    floor: Annotated[
        float | None,
        typer.Option(help="Log-odds that a hit must have. Default: chosen on validation studies."),
    ] = None,
    model: Model = "mini-fast",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    threads: Threads = None,
    batch_size: BatchSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Run the command; its words are in `EXAMPLE`."""
    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.progress import cell_progress
    from langcell.runtime.threads import set_threads
    from zeroshot.results.tables import check_table, print_table, write_table
    from zeroshot.retrieval.cell_search import FLOOR, SearchOptions
    from zeroshot.retrieval.cell_search import search as search_cells

    asked = [*(queries or ())] if h5ad is None else [file, *(queries or ())]
    source = Path(file) if h5ad is None else h5ad
    if not asked:
        raise typer.BadParameter(f"say what to search for in {source}", param_hint="QUERIES")
    set_threads(threads)
    check_inputs(source)
    if out is not None:
        check_table(out, overwrite=overwrite)
    options = SearchOptions(
        top=top,
        fdr=fdr,
        floor=FLOOR if floor is None else floor,
        layer=layer,
        allow_normalized=allow_normalized,
        device=device,
        batch_size=batch_size,
    )
    with cell_progress("searching") as progress:
        found = search_cells(source, asked, model=model, options=options, progress=progress)
    print_table(found.summary())
    if out is None:
        print()
        print_table(found.table())
    else:
        write_table(found.table(), out)
        print(f"wrote\t{out}")


search.__doc__ = EXAMPLE
