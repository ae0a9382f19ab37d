"""The command `langcell pretrain`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from pretrain.run.dry_run import Plan

EXAMPLE = """Train a model on labelled h5ad files.

Example: langcell pretrain --config tiny corpus_root=corpus output=runs/tiny

KEY=VALUE arguments override values of the recipe. The output folder gets best/ and last/ (models
for --model), last.ckpt to resume from, logs/ and run.json, which records how it was trained.
"""


_FLAGS = ("--dry-run",)  # options that take no value


class _Overrides(TyperGroup):
    """Command group that accepts `key=value` anywhere as short for `--set key=value`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_name_overrides(args)))


def _name_overrides(arguments: Sequence[str]) -> Iterator[str]:
    """Put `--set` before each argument that is an override.

    >>> list(_name_overrides(["--config", "tiny", "seed=1", "slurm", "--dry-run", "seed=2"]))
    ['--config', 'tiny', '--set', 'seed=1', 'slurm', '--dry-run', '--set', 'seed=2']
    """
    previous = ""
    for argument in arguments:
        is_value = previous.startswith("-") and previous not in _FLAGS
        if "=" in argument and not argument.startswith("-") and not is_value:
            yield "--set"
        yield argument
        previous = argument


CONFIG_OPTION = typer.Option(
    "--config",
    "-c",
    help="Recipe (YAML), or the name of a bundled one: mini, tiny, geneformer-6L, "
    "geneformer-12L, 104M, paper-stage1, paper-stage2.",
)
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe value; --set may be omitted."
    ),
]

app = typer.Typer(
    name="pretrain",
    help=EXAMPLE,
    cls=_Overrides,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(help=EXAMPLE)
def pretrain(
    context: typer.Context,
    config: Annotated[Path | None, CONFIG_OPTION] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check every path, column and ontology id, print counts and model size, then stop.",
        ),
    ] = False,
    resume: Annotated[
        str,
        typer.Option(help="auto: resume from the last checkpoint of the output folder; or never."),
    ] = "never",
) -> None:
    """Run the command; its help text is `EXAMPLE`."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise typer.BadParameter("pass a recipe, such as tiny", param_hint="--config")
    from pretrain.recipe.recipe_file import find_recipe, read_recipe

    if resume not in ("auto", "never"):
        raise typer.BadParameter(f"must be auto or never, got {resume!r}", param_hint="--resume")
    recipe = read_recipe(find_recipe(config), overrides or [])
    from langcell.runtime.processes import is_first_process
    from pretrain.run.dry_run import plan

    planned = plan(recipe)
    if is_first_process():
        _print_plan(planned, is_verbose=dry_run)
    if dry_run:
        return
    from pretrain.run.training import train

    typer.echo(train(recipe, resume=resume == "auto"))


@app.command()
def slurm(
    config: Annotated[Path, CONFIG_OPTION],
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the job.")] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs per node, one process each.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, help="CPU cores per process.")] = 8,
    time: Annotated[
        str, typer.Option(help="Time limit of one job; it requeues itself.")
    ] = "24:00:00",
    partition: Annotated[str, typer.Option(help="Partition, if the cluster needs one.")] = "",
    account: Annotated[str, typer.Option(help="Account, if the cluster needs one.")] = "",
    image: Annotated[
        str, typer.Option(help="Apptainer image to run in; see langcell pretrain apptainer.")
    ] = "",
) -> None:
    """Print a job for sbatch that saves a checkpoint before its time limit, requeues and resumes.

    Example: langcell pretrain slurm --config geneformer-6L --nodes 4 --gpus 8 shards.folder=shards output=runs/6L optimisation.batch_size=8192 > 6L.sbatch
    """
    from pretrain.commands.slurm import SlurmJob, sbatch
    from pretrain.recipe.recipe_file import find_recipe, read_recipe

    compute = [
        *("compute.accelerator=cuda", f"compute.devices={gpus}", f"compute.nodes={nodes}"),
        *(overrides or []),
    ]
    read_recipe(find_recipe(config), compute)  # fails now if the recipe is invalid
    job = SlurmJob(
        config=str(config),
        overrides=tuple(compute),
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        time=time,
        partition=partition,
        account=account,
        image=image,
    )
    typer.echo(sbatch(job), nl=False)


@app.command()
def apptainer(
    base: Annotated[
        str, typer.Option(help="Base image with Python; torch brings CUDA.")
    ] = "docker://python:3.12-slim",
) -> None:
    """Print a definition for apptainer build, to be built in a checkout of the project.

    Example: langcell pretrain apptainer > langcell.def; apptainer build langcell.sif langcell.def
    """
    from pretrain.commands.slurm import apptainer_definition

    typer.echo(apptainer_definition(base), nl=False)


def _print_plan(plan: "Plan", *, is_verbose: bool) -> None:
    if is_verbose:
        for file in plan.files:
            typer.echo(
                f"{file.role:10} {file.scale:7} {file.n_kept:6} of {file.n_rows:6} rows "
                f"{file.n_terms:4} types {file.n_genes:6} genes  {file.name}"
            )
    if all(file.role != "validation" for file in plan.files):
        typer.echo("no validation files: no scores, and best/ is the last model", err=True)
    for file in plan.files:
        if file.unknown:
            typer.echo(f"{file.name}: skipped unknown ids {', '.join(file.unknown)}", err=True)
    training = [file for file in plan.files if file.role != "validation"]
    typer.echo(
        f"{sum(file.n_kept for file in training)} rows of {plan.n_terms} types from "
        f"{plan.n_studies} studies in {len(training)} files; {plan.ontology}",
        err=not is_verbose,
    )
    for line in plan.held_out if is_verbose else ():
        typer.echo(line)
    if is_verbose:
        parts = ", ".join(
            f"{name.replace('_', ' ')} {n:,}" for name, n in plan.n_parameters.items()
        )
        typer.echo(
            f"model of {sum(plan.n_parameters.values()):,} parameters over at most "
            f"{plan.n_genes:,} genes: {parts}"
        )
        if plan.not_measured:
            typer.echo(plan.not_measured)
    if plan.validation_only:
        typer.echo(
            f"validation types without training data: {', '.join(plan.validation_only)}",
            err=not is_verbose,
        )
