"""The command `langcell fewshot`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langcell.runtime.cli_options import (
    AllowNormalized,
    BatchSize,
    Cells,
    Device,
    File,
    Files,
    Layer,
    ManyCells,
    Model,
    Overwrite,
    Threads,
    many_inputs,
    one_input,
)

if TYPE_CHECKING:
    from zeroshot.fit.fitted_head import FittedHead

app = typer.Typer(
    name="fewshot",
    help="Fit a few-shot head to labelled cells, and use it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def fit(
    label_key: Annotated[
        str,
        typer.Option(
            help="Column of obs with labels: names, synonyms or CL ids, or words of your own; empty "
            "where a cell has none."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the head.")],
    file: File = None,
    h5ad: Cells = None,
    target: Annotated[
        str,
        typer.Option(
            help="What labels say: type (of a cell), state (of a cell: disease, treatment; its words "
            "are no cell types), or donor (one label a donor, from the mean of its cells)."
        ),
    ] = "type",
    shots: Annotated[
        int | None, typer.Option(help="Cells, or donors, of each label, drawn. Default: all.")
    ] = None,
    head: Annotated[
        str,
        typer.Option(
            help="auto; linear; hierarchical, where cells of a label may be of any label below it; "
            "prototype; lora or full, which tune the model's cell encoder too; langcell, "
            "langcell-ce or langcell-ce-frozen, the recipes of the LangCell paper."
        ),
    ] = "auto",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Further labels that no cell has, as in langcell annotate; their texts speak for "
            "them."
        ),
    ] = None,
    group_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs, such as donor: the head is judged on values it did not see. With "
            "--target donor, the donors."
        ),
    ] = None,
    type_key: Annotated[
        str | None,
        typer.Option(
            help="With --target donor: column of cell types, each of which counts the same in a "
            "donor. Default: each cell counts the same."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the drawn cells.")] = 0,
    model: Model = "mini-fast",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    threads: Threads = None,
    batch_size: BatchSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a head to labelled cells.

    Example: langcell fewshot fit labelled.h5ad --label-key cell_type --out my-head

    Then: langcell fewshot predict new.h5ad --head my-head

    The folder holds weights, a calibration and a card; the model itself is not in it.
    """
    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.progress import cell_progress
    from langcell.runtime.threads import set_threads
    from zeroshot.fit.fit_few_shot import fit_few_shot
    from zeroshot.fit.options import FewShotOptions
    from zeroshot.heads.head_file import check_head_output
    from zeroshot.labels.candidates import read_labels

    set_threads(threads)
    h5ad = one_input(file, h5ad)
    check_inputs(h5ad)
    check_head_output(out, overwrite=overwrite)
    options = FewShotOptions(
        target=target,
        kind=head,
        shots=shots,
        labels=tuple(read_labels(labels)) if labels is not None else (),
        group_key=group_key,
        type_key=type_key,
        seed=seed,
        layer=layer,
        allow_normalized=allow_normalized,
        device=device,
        batch_size=batch_size,
    )
    with cell_progress("learning from labelled cells") as progress:
        fitted = fit_few_shot(h5ad, label_key, model=model, options=options, progress=progress)
    _write(fitted, out, overwrite=overwrite)


def _write(fitted: "FittedHead", out: Path, *, overwrite: bool) -> None:
    """Print how a head did, and write it with its card."""
    import shlex
    import sys

    from zeroshot.fit.head_card import head_card, head_lines
    from zeroshot.heads.head_file import write_head

    for line in head_lines(fitted):
        print(line)
    command = shlex.join(["langcell", *sys.argv[1:]])
    write_head(fitted.head, out, card=head_card(fitted, command=command), overwrite=overwrite)
    print(f"wrote\t{out}")


@app.command()
def predict(
    head: Annotated[
        str,
        typer.Option(
            help="Head of langcell fewshot fit: its folder, or hub id owner/name[@revision]."
        ),
    ],
    files: Files = None,
    h5ad: ManyCells = None,
    out: Annotated[
        Path | None, typer.Option(help="Output, as of langcell annotate. Default: named by input.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model of the head, where it has moved. Default: as fitted."),
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="Column of obs with cell types to score the calls against.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Least confidence of a call, as of langcell annotate.")
    ] = 0.9,
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    threads: Threads = None,
    batch_size: BatchSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Annotate cells with a few-shot head and the model that it was fitted on.

    Example: langcell fewshot predict new.h5ad --head my-head --out named.h5ad

    What it writes is what langcell annotate writes, which has more options. With a head of states
    all names begin with langcell_state.
    """
    import shlex
    import sys

    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.threads import set_threads
    from zeroshot.annotation.options import AnnotateOptions, default_key
    from zeroshot.commands.run import AnnotationRun, run_annotations
    from zeroshot.commands.run_plan import plan_runs
    from zeroshot.heads.head_hub import load_head

    set_threads(threads)
    inputs = many_inputs(files, h5ad)
    check_inputs(*inputs)
    fitted = load_head(head)
    wanted = AnnotationRun(
        source=inputs[0],
        out=out,
        model=model or fitted.model,
        truth=truth,
        options=AnnotateOptions(
            layer=layer,
            allow_normalized=allow_normalized,
            device=device,
            batch_size=batch_size,
            confidence=confidence,
            head=fitted,
            key_added=default_key(fitted),
            overwrite=overwrite,
            command=shlex.join(["langcell", *sys.argv[1:]]),
        ),
    )
    run_annotations(plan_runs(wanted, inputs))


@app.command()
def donors(
    head: Annotated[
        str, typer.Option(help="A head of langcell fewshot fit --target donor: folder or hub id.")
    ],
    donor_key: Annotated[str, typer.Option(help="Column of obs that tells donors apart.")],
    out: Annotated[Path, typer.Option(help="A row for each donor: .csv or .tsv.")],
    file: File = None,
    h5ad: Cells = None,
    type_key: Annotated[
        str | None,
        typer.Option(help="Column of cell types, where the head was fitted with --type-key."),
    ] = None,
    model: Model = "mini-fast",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    threads: Threads = None,
    batch_size: BatchSize = None,
    overwrite: Overwrite = False,
) -> None:
    """Call donors by the means of their cells.

    Example: langcell fewshot donors new.h5ad --head my-head --donor-key donor --out d.csv
    """
    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.output_file import check_output, replaced_file
    from langcell.runtime.progress import cell_progress
    from langcell.runtime.threads import set_threads
    from zeroshot.annotation.options import AnnotateOptions
    from zeroshot.fit.donor_calls import call_donors
    from zeroshot.fit.head_card import donor_confidence_lines
    from zeroshot.heads.head_hub import load_head

    set_threads(threads)
    h5ad = one_input(file, h5ad)
    check_inputs(h5ad)
    check_output(out, suffixes=(".csv", ".tsv"), overwrite=overwrite)
    options = AnnotateOptions(
        layer=layer, allow_normalized=allow_normalized, device=device, batch_size=batch_size
    )
    fitted = load_head(head)
    with cell_progress("reading cells") as progress:
        table = call_donors(
            h5ad,
            fitted,
            donor_key,
            type_key=type_key,
            model=model,
            options=options,
            progress=progress,
        )
    print(table.to_string(float_format="{:.3f}".format))
    for line in donor_confidence_lines(fitted):
        print(line)
    with replaced_file(out) as temporary:
        table.to_csv(temporary, sep="\t" if out.suffix == ".tsv" else ",")
    print(f"wrote\t{out}")


@app.command()
def push(
    head: Annotated[Path, typer.Option(help="Folder of the head.")],
    repo: Annotated[str, typer.Option(help="owner/name on the Hugging Face hub.")],
    revision: Annotated[str, typer.Option(help="Branch. Default: the main one.")] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
) -> None:
    """Upload a head to the Hugging Face hub.

    Others use it as --head owner/name. Its card shows the command that made it, with names of files.
    """
    from zeroshot.heads.head_hub import push_head

    print(f"wrote\t{repo}@{push_head(head, repo, revision=revision, private=private)}")


@app.command()
def genes(
    gene_set: Annotated[
        Path, typer.Option("--set", help="Genes of the set: a symbol or Ensembl id a line.")
    ],
    out: Annotated[Path, typer.Option(help="All genes, likeliest first: .csv or .tsv.")],
    model: Model = "mini-fast",
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Rank all genes by how much they look like those of a set.

    Example: langcell fewshot genes --set my_genes.txt --out ranked.csv

    By the gene embeddings of the model; no cells are read.
    """
    from langcell.runtime.output_file import check_output, replaced_file
    from langcell.runtime.threads import set_threads
    from zeroshot.evidence.gene_sets import rank_genes
    from zeroshot.labels.candidates import read_labels

    set_threads(threads)
    if not gene_set.is_file():
        raise FileNotFoundError(f"no file of genes {gene_set}")
    check_output(out, suffixes=(".csv", ".tsv"), overwrite=overwrite)
    ranked = rank_genes(read_labels(str(gene_set)), model=model)
    print(f"genes\t{int(ranked.table['is_given'].sum())} of the set, {len(ranked.table):,} ranked")
    if ranked.unknown:
        print(f"unknown\t{len(ranked.unknown)}: {', '.join(ranked.unknown[:10])}")
    print(f"auroc\t{ranked.auroc:.4f}\tof genes of the set, held out in turn, among all genes")
    first = ranked.table[~ranked.table["is_given"]].head(10)
    print(f"likeliest\t{', '.join(first['gene'].where(first['gene'] != '', first['ensembl_id']))}")
    with replaced_file(out) as temporary:
        ranked.table.to_csv(temporary, sep="\t" if out.suffix == ".tsv" else ",", index=False)
    print(f"wrote\t{out}")
