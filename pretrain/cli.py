"""The command `langcell pretrain`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pretrain.plan import Plan


def pretrain(
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", help="Recipe (YAML), or the name of one in the package: mini, tiny."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values that replace those of the recipe."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check every path, column and ontology id, print counts, stop."
        ),
    ] = False,
    resume: Annotated[
        str,
        typer.Option(help="auto: go on from the last checkpoint of the output; or never."),
    ] = "never",
) -> None:
    """Train a model on labelled h5ad files.

    Example: langcell pretrain --config mini corpus_root=corpus output=runs/mini
    optimisation.steps=2000

    The output folder gets best/ and last/ (models for --model), last.ckpt, and logs/.
    """
    from pretrain.config import find_recipe, read_recipe

    if resume not in ("auto", "never"):
        raise typer.BadParameter(f"must be auto or never, got {resume!r}", param_hint="--resume")
    recipe = read_recipe(find_recipe(config), overrides or [])
    from pretrain.plan import plan

    _print_plan(plan(recipe), is_long=dry_run)
    if dry_run:
        return
    from pretrain.training import train

    typer.echo(train(recipe, resume=resume == "auto"))


def _print_plan(plan: "Plan", *, is_long: bool) -> None:
    if is_long:
        for file in plan.files:
            typer.echo(
                f"{file.role:10} {file.scale:7} {file.n_kept:6} of {file.n_rows:6} rows "
                f"{file.n_terms:4} types {file.n_genes:6} genes  {file.name}"
            )
    for file in plan.files:
        if file.unknown:
            typer.echo(f"{file.name}: skipped unknown ids {', '.join(file.unknown)}", err=True)
    training = [file for file in plan.files if file.role != "validation"]
    typer.echo(
        f"{sum(file.n_kept for file in training)} rows of {plan.n_terms} types from "
        f"{plan.n_studies} studies in {len(training)} files; {plan.ontology}",
        err=not is_long,
    )
    for line in plan.held_out if is_long else ():
        typer.echo(line)
    if plan.validation_only:
        typer.echo(
            f"validation types without training data: {', '.join(plan.validation_only)}",
            err=not is_long,
        )
