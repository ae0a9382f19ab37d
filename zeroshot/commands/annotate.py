"""The command `langcell annotate`, or `langcell zeroshot`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from langcell.runtime.cli_options import (
    AllowNormalized,
    BatchSize,
    Device,
    Files,
    Layer,
    ManyCells,
    Model,
    Overwrite,
    Threads,
    many_inputs,
)

EXAMPLE = """Label the cells of a file with cell types of the Cell Ontology, without labelled cells.

Example: langcell annotate pbmc.h5ad --out annotated.h5ad

Writes to obs: langcell_label, langcell_ontology_term_id and langcell_confidence, the deepest term
that is sure enough, or "unknown"; langcell_leaf_label, langcell_leaf_ontology_term_id,
langcell_leaf_confidence and langcell_margin, the best single term; langcell_ood, how unlike the
training cells, or the labels of a head, a cell is. X_langcell, langcell_scores and langcell_terms go to obsm, and how it was
done to uns["langcell"]. Nothing else changes.

Give several files, or a folder, and each gets an output of its own. A run that is
interrupted goes on where it stopped when the same command is given again.

With --smooth, --cluster-key or --assign-within, second calls that look at other cells too stand
beside these: langcell_smooth_label, langcell_cluster_label and langcell_assigned_label, each with
its id and confidence.

With a --head of states (langcell fewshot fit --target state) all names begin with langcell_state.
"""


class _InputFirst(TyperGroup):
    """Takes files without a flag too: `annotate a b` stands for `annotate --h5ad a --h5ad b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = [word for word in args if word != "--"]
        for _ in range(len(args)):  # each word that belongs to no option is one more file
            _, rest, _ = self.make_parser(ctx).parse_args(list(args))
            if not rest or rest[0] in self.commands or rest[0].startswith("-"):
                break
            args.insert(len(args) - len(rest), "--h5ad")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS] FILE..."]


app = typer.Typer(
    name="zeroshot",
    cls=_InputFirst,
    help=EXAMPLE,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(help=EXAMPLE)
def zeroshot(
    context: typer.Context,
    h5ad: Annotated[
        list[Path] | None,
        typer.Option(
            help="Input: .h5ad, .zarr, 10x .h5 or 10x mtx folder; or several, or a folder of them."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output: .h5ad, or .csv or .parquet for the columns of obs alone; of several inputs "
            "a folder. Default: <name>.langcell.h5ad in the current folder."
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="Format of the outputs, for several inputs: h5ad, csv or parquet."
        ),
    ] = "h5ad",
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Skip inputs whose output exists, for several inputs."
        ),
    ] = False,
    model: Model = "mini-fast",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Candidates: a file with one a line, or 'B cell; T cell; CL:0000576'. Names, "
            "synonyms and CL ids of the Cell Ontology; 'text: ...' admits any other words. "
            "Default: all cell types."
        ),
    ] = None,
    rerank: Annotated[
        int,
        typer.Option(
            help="Number of best candidates of each cell that the matching head reorders; 0: none."
        ),
    ] = 0,
    scoring: Annotated[
        str,
        typer.Option(
            help="fused adds log-probabilities, whatever the number of labels; official is the sum "
            "of softmaxes of the LangCell paper, which matches every label and is not calibrated."
        ),
    ] = "fused",
    alpha: Annotated[
        float | None,
        typer.Option(help="Of the similarity in the official scoring.", show_default="0.1"),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(
            help="Least calibrated probability of a call; a cell is called the deepest term that "
            "reaches it, or unknown."
        ),
    ] = 0.9,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Use this calibration (langcell annotate calibrate), not the model's."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="A head (langcell fewshot fit): its folder, or hub id, @revision or not. Its labels "
            "are the candidates, and what it learnt from labelled cells counts beside their texts."
        ),
    ] = None,
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
    cluster_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs whose clusters are called as a whole too, by the pooled scores of "
            "their cells; 'auto' makes clusters."
        ),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(
            metavar="LAMBDA",
            help="Call each cell a second time with the scores of its neighbours in view; more is "
            "smoother, 'auto' is 3.",
        ),
    ] = None,
    assign_within: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Column of obs, such as a donor: give each label once within each of its values, "
            "to clusters with --cluster-key, else to cells.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write a report for readers: one .html file, or a folder for several inputs. "
            "Needs an h5ad output."
        ),
    ] = None,
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option(help="Devices of that kind on each node, a process each.")
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option(help="Nodes on which torchrun or SLURM starts this command, for one output."),
    ] = 1,
    threads: Threads = None,
    batch_size: BatchSize = None,
    key_added: Annotated[
        str | None,
        typer.Option(
            help="What the names of results begin with.",
            show_default="langcell, and langcell_state with a head of states",
        ),
    ] = None,
    overwrite: Overwrite = False,
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
    if context.invoked_subcommand is not None:
        return
    if not h5ad:
        raise typer.BadParameter("name the file to annotate", param_hint="FILE")
    import shlex
    import sys

    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.threads import set_threads
    from zeroshot.annotation.options import AnnotateOptions, default_key
    from zeroshot.commands.run import AnnotationRun, run_annotations
    from zeroshot.commands.run_plan import plan_runs
    from zeroshot.confidence.calibration import Calibration
    from zeroshot.decide.options import DecodeOptions, read_strength
    from zeroshot.heads.head_hub import load_head

    set_threads(threads)
    check_inputs(*h5ad)
    fitted = None if head is None else load_head(head)
    if key_added is None:
        key_added = default_key(fitted)
    options = AnnotateOptions(
        layer=layer,
        allow_normalized=allow_normalized,
        device=device,
        devices=devices,
        nodes=nodes,
        batch_size=batch_size,
        rerank=rerank,
        scoring=scoring,
        alpha=alpha,
        confidence=confidence,
        calibration=None if calibration is None else Calibration.read(calibration),
        head=fitted,
        tissue=tissue,
        tissue_mode=tissue_mode,
        tissue_obo=tissue_obo,
        key_added=key_added,
        overwrite=overwrite,
        inplace=inplace,
        command=shlex.join(["langcell", *sys.argv[1:]]),
    )
    wanted = AnnotationRun(
        source=h5ad[0],
        out=out,
        model=model,
        labels=labels,
        truth=truth,
        report=report,
        options=options,
        decoding=DecodeOptions(
            smooth=None if smooth is None else read_strength(smooth),
            cluster_key=cluster_key,
            assign_within=assign_within,
            key_added=key_added,
        ),
    )
    run_annotations(plan_runs(wanted, h5ad, form=form, skip_existing=skip_existing))


@app.command()
def calibrate(
    truth: Annotated[str, typer.Option(help="Column of obs with cell types.")],
    out: Annotated[Path, typer.Option(help="The calibration, .json.")],
    files: Files = None,
    h5ad: ManyCells = None,
    study_key: Annotated[
        str | None, typer.Option(help="Column of obs that tells studies apart. Default: files.")
    ] = None,
    model: Model = "mini-fast",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit the confidence to labelled cells, for langcell annotate --calibration.

    Example: langcell annotate calibrate a.h5ad b.h5ad --truth cell_type --out c.json
    """
    import shlex
    import sys

    from langcell.counts.file_formats import check_inputs
    from langcell.runtime.output_file import check_output, replaced_file
    from langcell.runtime.threads import set_threads
    from zeroshot.annotation.options import AnnotateOptions
    from zeroshot.fit.fit_calibration import calibrate as learn

    set_threads(threads)
    inputs = many_inputs(files, h5ad)
    check_inputs(*inputs)
    check_output(out, suffixes=(".json",), overwrite=overwrite)
    found = learn(
        inputs,
        truth=truth,
        study_key=study_key,
        model=model,
        options=AnnotateOptions(layer=layer, allow_normalized=allow_normalized),
        command=shlex.join(["langcell", *sys.argv[1:]]),
    )
    with replaced_file(out) as temporary:
        temporary.write_text(found.to_json(), encoding="utf-8")
    print(f"studies\t{', '.join(found.fitted_on)}\ncalibration\t{found.identifier}")
    for measured in (found.all_types_reliability, found.given_reliability):
        if measured is not None:
            print(f"calibration error\t{measured.ece:.3f}\t{measured.measured_on}")
    print(f"wrote\t{out}")
