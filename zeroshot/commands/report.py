"""The command `langcell report`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import Cells, one_input


def report(
    out: Annotated[Path, typer.Option(help="The report: one .html file.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="An h5ad file that langcell annotate wrote.", show_default=False),
    ] = None,
    h5ad: Cells = None,
    cluster_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs with clusters. Default: leiden or louvain, if there is one."
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="Column of obs with known labels. Default: one that holds cell types."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Where the model that made the calls is, a folder or hub id, if not where the file "
            "says; evidence genes are found with it."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="The head that made the calls, if one did: its folder or hub id."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample of cells on the map.")] = 0,
    key_added: Annotated[str, typer.Option(help="What the names of the results begin with.")] = (
        "langcell"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is there.")
    ] = False,
) -> None:
    """Write what was called, and which calls to trust, as one HTML file that opens anywhere.

    Example: langcell report named.h5ad --out report.html
    """
    h5ad = one_input(file, h5ad)
    from langcell.runtime.progress import cell_progress
    from zeroshot.heads.head_hub import load_head
    from zeroshot.report.report import ReportOptions, write_report

    options = ReportOptions(
        key_added=key_added,
        cluster_key=cluster_key,
        truth=truth,
        seed=seed,
        overwrite=overwrite,
    )
    fitted = None if head is None else load_head(head)
    with cell_progress("reporting") as progress:
        write_report(h5ad, out, model=model, head=fitted, options=options, progress=progress)
    print(f"wrote\t{out}")
