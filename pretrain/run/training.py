"""Run pretraining: from a recipe to a folder with a model."""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from langcell.model.langcell import LangCell
from langcell.nn.cell_encoder import CellEncoder
from langcell.nn.lora import merged
from langcell.nn.text_encoder import TextEncoder
from langcell.runtime.lightning_messages import quiet_lightning
from langcell.runtime.processes import is_first_process, process_number
from langcell.runtime.threads import set_threads, thread_count
from pretrain.parallel.cluster import find_compute, trainer_arguments
from pretrain.recipe.config import Compute, Recipe
from pretrain.recipe.holdout import FILE as HOLDOUT
from pretrain.recipe.random_state import repeatable
from pretrain.run.build import Parts, build_parts
from pretrain.run.callbacks import RunCallback
from pretrain.run.datamodule import PretrainData
from pretrain.run.module import PretrainModule
from pretrain.run.run_card import data_digest, run_card, write_run_card
from pretrain.run.run_folder import (
    LAST,
    begin_run,
    check_run,
    check_state,
    is_finished,
    read_genes,
    write_genes,
)
from pretrain.run.validation import StudyScore, reference_features, score_studies

# Lightning warnings that are expected here.
_EXPECTED = (
    # An endless stream has no length, and nothing needs it.
    ".*IterableDataset.*has.*__len__.*",
    # StepStream supports resuming in the middle of an epoch.
    ".*resuming from a checkpoint that ended before.*",
)


def train(recipe: Recipe, *, resume: bool = False) -> Path:
    """Train a model by a recipe and return the folder of the best checkpoint.

    Parameters
    ----------
    recipe
        Checked recipe; `recipe.output` gets `best/` and `last/` (checkpoint folders), `last.ckpt`
        (to resume from), `genes.tsv`, `recipe.yaml`, `logs/` (TensorBoard and CSV), `holdout.tsv`
        if types were held out, and `run.json`, the run card.
    resume
        Resume from `last.ckpt` if there is one; a finished run is left as it is. The result equals
        that of an uninterrupted run, bit for bit on a CPU with the same number of threads.

    Raises
    ------
    FileExistsError
        If the folder holds a run and `resume` is not set, or one without its checkpoint.
    ValueError
        If the run in the folder was started with another recipe or other data, or its checkpoint
        is damaged.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    output = Path(recipe.output).expanduser()
    compute = find_compute(recipe.compute)
    is_first = is_first_process()
    is_resumed = check_run(recipe, output, resume=resume)
    if is_resumed and is_finished(output):
        if not is_first:
            sys.exit(0)
        _log(f"the run in {output} has already finished")
        return output / "best"
    loggers = _loggers(recipe, output)
    data = data_digest(recipe) if is_first else ""
    if is_resumed and is_first:
        check_state(output, data)
    set_threads(recipe.optimisation.threads or None)
    if compute.accelerator == "cpu" and compute.devices > 1:
        set_threads(max(1, thread_count() // compute.devices))
    vocabulary = read_genes(output) if is_resumed else None
    parts = build_parts(recipe, vocabulary=vocabulary, log=_log if is_first else _log_nothing)
    assert parts.model.vocabulary is not None
    if is_first:
        if not is_resumed:
            begin_run(recipe, output, data)
        write_genes(parts.model.vocabulary, output)
    if is_first and parts.held_out.roots:
        parts.held_out.write(output / HOLDOUT, parts.ontology)
    _tune_stacks(parts.model, recipe, compute)
    # Seeds dropout; RunCallback restores the random state when a run is resumed.
    torch.manual_seed(recipe.seed + process_number())
    module = PretrainModule(parts.model, recipe, parts.texts, parts.teachers)
    callback = RunCallback(
        recipe,
        output,
        score=lambda model: _score(model, parts, recipe),
        export=lambda model, folder: _export(model, parts, recipe, folder),
    )
    with repeatable(compute.accelerator):
        _fit(recipe, output, module, callback, parts, compute, loggers, is_resumed)
    if not is_first:
        sys.exit(0)  # the first process has the model
    if callback.is_stopped:
        raise KeyboardInterrupt(
            f"stopped; resume with --resume auto, in Python resume=True (checkpoint {output / LAST})"
        )
    card = run_card(recipe, compute, data_sha256=data, results=callback.results)
    # Last into the run folder itself, where it marks the run as finished.
    write_run_card(card, [output / "best", output / "last", output])
    _log(f"best model: {output / 'best'} (step {callback.best_step})")
    return output / "best"


def _tune_stacks(model: LangCell, recipe: Recipe, compute: Compute) -> None:
    """Set the options of the encoders that change speed and memory but no results."""
    for encoder in (model.cell_encoder, model.text_encoder):
        if isinstance(encoder, CellEncoder | TextEncoder):
            encoder.stack.pack = True
            encoder.stack.recompute = recipe.model.recompute
    if isinstance(model.cell_encoder, CellEncoder) and compute.compile:
        model.cell_encoder.stack.compile_blocks()


def _fit(
    recipe: Recipe,
    output: Path,
    module: PretrainModule,
    callback: RunCallback,
    parts: Parts,
    compute: Compute,
    loggers: list[Logger],
    is_resumed: bool,
) -> None:
    settings = recipe.optimisation
    with quiet_lightning(*_EXPECTED):
        trainer = Trainer(
            **trainer_arguments(compute, settings.precision),
            max_steps=settings.steps,
            logger=loggers,
            callbacks=[callback],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(
            module,
            PretrainData(parts.source, parts.collator, n_steps=settings.steps),
            ckpt_path=output / LAST if is_resumed else None,
            weights_only=True,
        )


def _loggers(recipe: Recipe, output: Path) -> list[Logger]:
    loggers: list[Logger] = [
        TensorBoardLogger(output / "logs", name="tensorboard", version=""),
        # One version per start: a resumed run would delete the earlier lines.
        CSVLogger(output / "logs", name="csv", flush_logs_every_n_steps=1),
    ]
    if recipe.wandb:
        if find_spec("wandb") is None:
            raise ValueError(
                "wandb is not installed: pip install 'langcell[wandb]', or leave wandb out of the recipe"
            )
        loggers.append(
            WandbLogger(project=recipe.wandb, name=output.name, save_dir=output / "logs")
        )
    return loggers


def _score(model: LangCell, parts: Parts, recipe: Recipe) -> list[StudyScore]:
    if not parts.validation or parts.labels is None:
        return []
    return score_studies(
        model,
        parts.validation,
        parts.labels.pool(model),
        parts.reference,
        batch_size=recipe.validation.batch_size,
        min_cells=recipe.validation.min_cells,
    )


def _export(trained: LangCell, parts: Parts, recipe: Recipe, folder: Path) -> None:
    model = merged(trained)
    if parts.labels is not None:
        model.label_embeddings = parts.labels.embeddings(model)
    model.reference = reference_features(
        model, parts.reference, batch_size=recipe.validation.batch_size
    )
    model.save_pretrained(folder, dtype=torch.float16 if recipe.half else torch.float32)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _log_nothing(line: str) -> None:
    """Print nothing: only the first process logs."""
