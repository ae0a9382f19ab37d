"""The command `langcell export`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import Cells, one_input


def export(
    out: Annotated[Path, typer.Option(help="Output: .h5ad; .json for cas.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="cellxgene: obs column cell_type_ontology_term_id. cap: columns and uns of the Cell "
            "Annotation Platform. cas: JSON of the Cell Annotation Schema.",
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(help="A file that langcell annotate wrote.", show_default=False)
    ] = None,
    h5ad: Cells = None,
    write_cell_type: Annotated[
        bool,
        typer.Option(
            "--write-cell-type",
            help="Replace cell_type and cell_type_ontology_term_id of the file; they are kept with "
            "_before added to their names.",
        ),
    ] = False,
    names: Annotated[
        bool,
        typer.Option(
            "--names",
            help="Write obs column cell_type too, for use at home: CELLxGENE adds it itself and "
            "refuses a file that has it.",
        ),
    ] = False,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            help="Name the genes that raise each call in marker_gene_evidence, for cap and cas; the "
            "model that made the calls is asked for them.",
        ),
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="With --evidence, the head that made the calls: its folder or hub id."),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Of the data set. Default: uns, or the file's name.")
    ] = None,
    author: Annotated[
        str | None, typer.Option(help="First and last name, for cap and cas. Default: uns.")
    ] = None,
    url: Annotated[str, typer.Option(help="Where the annotations are published.")] = "NA",
    labelset: Annotated[
        str | None, typer.Option(help="Name of the set of labels. Default: that of the calls.")
    ] = None,
    calls: Annotated[
        str | None,
        typer.Option(
            help="Which calls, by what their columns begin with, such as langcell_cluster. Default: "
            "those after back-off."
        ),
    ] = None,
    key_added: Annotated[str, typer.Option(help="What the names of the results begin with.")] = (
        "langcell"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output.")] = False,
) -> None:
    """Write calls in the form that CELLxGENE or the Cell Annotation Platform takes.

    Example: langcell export named.h5ad --format cellxgene --out submission.h5ad

    The input is not changed. Cells without a call are unknown, as the schemas want it.
    """
    h5ad = one_input(file, h5ad)
    from zeroshot.export.export import ExportOptions, write_export
    from zeroshot.heads.head_hub import load_head

    options = ExportOptions(
        key_added=key_added,
        calls=calls,
        labelset=labelset,
        write_cell_type=write_cell_type,
        names=names,
        evidence=evidence,
        head=None if head is None else load_head(head),
        title=title,
        author=author,
        url=url,
        overwrite=overwrite,
    )
    for line in write_export(h5ad, out, format=form, options=options):
        print(line)
    print(f"wrote\t{out}")
