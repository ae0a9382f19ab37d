"""The command `langcell zeroshot`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = """Name the cells of a file with Cell Ontology terms, without labels of your own.

Example: langcell zeroshot --h5ad pbmc.h5ad --out named.h5ad

Writes langcell_leaf_label, langcell_leaf_ontology_term_id and langcell_margin to obs, X_langcell
and langcell_scores to obsm, and how it was done to uns["langcell"]. Nothing else changes.
"""


def zeroshot(
    h5ad: Annotated[Path, typer.Option(help="Input: .h5ad, .zarr, 10x .h5 or 10x mtx folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output: .h5ad, or .csv or .parquet for the columns of obs alone. "
            "Default: <name>.langcell.h5ad in the current folder."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "mini-fast",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Candidates: a file with one a line, or 'B cell; T cell; CL:0000576'. Names, "
            "synonyms and CL ids of the Cell Ontology; 'text: ...' admits any other words. "
            "Default: all cell types."
        ),
    ] = None,
    rerank: Annotated[
        int, typer.Option(help="Let the matching head reorder so many candidates a cell; 0: off.")
    ] = 0,
    tissue: Annotated[
        str | None,
        typer.Option(
            help="Where the cells are from: a name or id of UBERON, such as lung; or auto, for "
            "each cell what obs has in tissue_ontology_term_id. Unlikely types lose weight."
        ),
    ] = None,
    tissue_mode: Annotated[
        str,
        typer.Option(help="weigh types by the tissue, or restrict the labels to those it holds."),
    ] = "weigh",
    tissue_obo: Annotated[
        Path | None,
        typer.Option(
            help="An .obo or .obo.gz of the Cell Ontology whose relations to UBERON say where types "
            "belong. Default: the organs that names and definitions mention."
        ),
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="Column of obs with known labels to score the calls against.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer of the raw counts, if not found.")
    ] = None,
    allow_normalized: Annotated[
        bool, typer.Option("--allow-normalized", help="Accept log1p, CPM or TPM values.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Cells encoded at once. Default: what suits the device.")
    ] = None,
    key_added: Annotated[str, typer.Option(help="What the names of results begin with.")] = (
        "langcell"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output or results that are there.")
    ] = False,
    inplace: Annotated[
        bool,
        typer.Option(
            "--inplace",
            help="Add the results to the input itself, in one short step at the end. A power "
            "failure in that step can damage the file; --out is the safe way.",
        ),
    ] = False,
) -> None:
    """Run the command; its words are in `EXAMPLE`."""
    from langcell.threads import set_threads
    from zeroshot.annotator import AnnotateOptions
    from zeroshot.run import AnnotationRun, default_output, run_annotation

    set_threads(threads)
    options = AnnotateOptions(
        layer=layer,
        allow_normalized=allow_normalized,
        device=device,
        batch_size=batch_size,
        rerank=rerank,
        tissue=tissue,
        tissue_mode=tissue_mode,
        tissue_obo=tissue_obo,
        key_added=key_added,
        overwrite=overwrite,
        inplace=inplace,
    )
    wanted = AnnotationRun(
        source=h5ad,
        out=out if out or inplace else default_output(h5ad),
        model=model,
        labels=labels,
        truth=truth,
        options=options,
    )
    run_annotation(wanted)


zeroshot.__doc__ = EXAMPLE


def export(
    h5ad: Annotated[Path, typer.Option(help="A file that langcell zeroshot annotated.")],
    out: Annotated[Path, typer.Option(help="Output: .h5ad; .json for cas.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="cellxgene: obs column cell_type_ontology_term_id. cap: columns and uns of the Cell "
            "Annotation Platform. cas: JSON of the Cell Annotation Schema.",
        ),
    ],
    write_cell_type: Annotated[
        bool,
        typer.Option(
            "--write-cell-type",
            help="Let cell_type and cell_type_ontology_term_id of the file give way; they are kept "
            "under their names with _before.",
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

    Example: langcell export --h5ad named.h5ad --format cellxgene --out submission.h5ad

    The input is not changed. Cells without a call are unknown, as the schemas want it.
    """
    from zeroshot.export import ExportOptions
    from zeroshot.export import export as write_export

    options = ExportOptions(
        key=key_added,
        calls=calls,
        labelset=labelset,
        write_cell_type=write_cell_type,
        names=names,
        title=title,
        author=author,
        url=url,
        overwrite=overwrite,
    )
    for line in write_export(h5ad, out, form=form, options=options):
        print(line)
    print(f"wrote\t{out}")
