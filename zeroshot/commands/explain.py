"""The command `langcell explain`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import (
    AllowNormalized,
    Cells,
    Device,
    File,
    Layer,
    Model,
    Overwrite,
    Threads,
    one_input,
)

EXAMPLE = """Say which genes raise and lower the calls of cells or clusters, and which markers agree.

Example: langcell explain pbmc.h5ad --cluster-key leiden --out evidence.csv

Evidence "label" is for the call, "against" for its lead over the runner-up (why CD8 and not NK):
effects are log-odds that are lost without the gene. "marker" rows are genes that the Cell
Ontology's definition names, with the share of cells that express them.
"""


def explain(
    file: File = None,
    h5ad: Cells = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(help="Cluster to explain; again for each further one. Default: all."),
    ] = None,
    cells: Annotated[
        str | None, typer.Option(help="Cells to explain: a file with a name a line, or 'a; b'.")
    ] = None,
    cluster_key: Annotated[
        str | None, typer.Option(help="Column of obs with clusters to explain instead.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="What to explain instead of the call: name, id or words.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="What to compare it with instead of the runner-up.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Candidates, as in langcell annotate. Default: all types.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="A head (langcell fewshot fit), folder or hub id: explain what it says of its labels."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output: .csv or .parquet. Default: printed.")
    ] = None,
    genes: Annotated[int, typer.Option(help="Genes that raise, and that lower, each call.")] = 10,
    cells_per_cluster: Annotated[
        int, typer.Option(help="Cells that speak for a cluster, evenly spaced over the file.")
    ] = 100,
    model: Model = "mini-fast",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Run the command; its words are in `EXAMPLE`."""
    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.threads import set_threads
    from zeroshot.evidence.explain import ExplainOptions
    from zeroshot.evidence.explain import explain as explain_calls
    from zeroshot.heads.head_hub import load_head
    from zeroshot.labels.candidates import read_labels
    from zeroshot.results.tables import check_table, print_table, write_table

    h5ad = one_input(file, h5ad)
    set_threads(threads)
    check_inputs(h5ad)
    if out is not None:
        check_table(out, overwrite=overwrite)
    table = explain_calls(
        h5ad,
        cells=read_labels(cells) if cells is not None else (),
        cluster=cluster,
        cluster_key=cluster_key,
        label=label,
        against=against,
        labels=read_labels(labels) if labels is not None else None,
        head=None if head is None else load_head(head),
        model=model,
        options=ExplainOptions(
            n_genes=genes,
            cells_per_cluster=cells_per_cluster,
            layer=layer,
            allow_normalized=allow_normalized,
            device=device,
        ),
    )
    if out is None:
        print_table(table)
    else:
        write_table(table, out)
        print(f"wrote\t{out}")


explain.__doc__ = EXAMPLE
