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
    truth: Annotated[
        str | None, typer.Option(help="Column of obs with known labels to score the calls against.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a report for readers: one .html file. Needs an h5ad output."),
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
        report=report,
        options=options,
    )
    run_annotation(wanted)


zeroshot.__doc__ = EXAMPLE


def report(
    h5ad: Annotated[Path, typer.Option(help="An h5ad file that langcell zeroshot annotated.")],
    out: Annotated[Path, typer.Option(help="The report: one .html file.")],
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
    seed: Annotated[int, typer.Option(help="Of the sample of cells on the map.")] = 0,
    key_added: Annotated[str, typer.Option(help="What the names of the results begin with.")] = (
        "langcell"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is there.")
    ] = False,
) -> None:
    """Write what was called, and which calls to trust, as one HTML file that opens anywhere.

    Example: langcell report --h5ad named.h5ad --out report.html
    """
    from langcell.progress import cell_progress
    from zeroshot.report import ReportOptions, write_report

    options = ReportOptions(
        key_added=key_added,
        cluster_key=cluster_key,
        truth=truth,
        seed=seed,
        overwrite=overwrite,
    )
    with cell_progress("reporting") as progress:
        write_report(h5ad, out, options=options, progress=progress)
    print(f"wrote\t{out}")
