"""A training run, from a recipe to a folder with a model."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from langcell.cell_encoder import CellEncoder
from langcell.genes import GeneVocabulary
from langcell.low_rank import merged
from langcell.model import LangCell
from langcell.processes import is_first_process, process_number
from langcell.quiet import quiet_lightning
from langcell.text_encoder import TextEncoder
from langcell.threads import set_threads, thread_count
from pretrain.build import Parts, build_parts
from pretrain.cluster import find_compute, trainer_arguments
from pretrain.config import Compute, Recipe
from pretrain.datamodule import PretrainData
from pretrain.holdout import FILE as HOLDOUT
from pretrain.keeper import LAST, Keeper
from pretrain.module import PretrainModule
from pretrain.run_card import run_card, write_run_card
from pretrain.validation import StudyScore, reference_features, score_studies

# What may change between the start of a run and its resumption.
_FREE = (
    "corpus_root",
    "output",
    "checkpoint_every",
    "log_every",
    "validation",
    "half",
    "compute",
    "wandb",
)
# Warnings of Lightning that say nothing new.
_EXPECTED = (
    # The length of an endless stream is not known, and nothing asks for it.
    ".*IterableDataset.*has.*__len__.*",
    # Resuming in the middle of an epoch is what StepStream is made for.
    ".*resuming from a checkpoint that ended before.*",
)


def train(recipe: Recipe, *, resume: bool = False) -> Path:
    """Train as the recipe says and return the folder of the best model.

    Parameters
    ----------
    recipe
        Checked recipe; `recipe.output` gets `best/` and `last/` (checkpoint folders), `last.ckpt`
        (to resume from), `genes.tsv`, `recipe.yaml`, `logs/` (TensorBoard and CSV), and `holdout.tsv`
        where types were held out, and `run.json`, which says what was trained on what.
    resume
        Go on from `last.ckpt` if there is one. The result is that of a run that was not
        interrupted, to the bit for the same number of threads.

    Raises
    ------
    FileExistsError
        If the folder holds a run and `resume` is not set.
    ValueError
        If the run in the folder was started with another recipe.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM; the state was saved.
    """
    output = Path(recipe.output).expanduser()
    compute = find_compute(recipe.compute)
    is_first = is_first_process()
    is_resumed = (output / LAST).is_file()
    if is_resumed and is_first:
        _check_run(recipe, output, resume)
    set_threads(recipe.optimisation.threads or None)
    if compute.accelerator == "cpu" and compute.devices > 1:
        set_threads(max(1, thread_count() // compute.devices))
    genes = output / "genes.tsv"
    vocabulary = GeneVocabulary.read(genes) if is_resumed else None
    parts = build_parts(recipe, vocabulary=vocabulary, say=_say if is_first else _say_nothing)
    assert parts.model.vocabulary is not None
    if is_first:
        if not is_resumed:
            _begin_run(recipe, output)
        parts.model.vocabulary.write(genes)
    if is_first and parts.held_out.roots:
        parts.held_out.write(output / HOLDOUT, parts.ontology)
    _tune_stacks(parts.model, recipe, compute)
    # Dropout; the keeper restores its state on resumption.
    torch.manual_seed(recipe.seed + process_number())
    module = PretrainModule(parts.model, recipe, parts.texts, parts.teachers)
    keeper = Keeper(
        recipe,
        output,
        score=lambda model: _score(model, parts, recipe),
        export=lambda model, folder: _export(model, parts, recipe, folder),
    )
    _fit(recipe, output, module, keeper, parts, compute, is_resumed)
    if not is_first:
        sys.exit(0)  # the first process has the model
    if keeper.is_stopped:
        raise KeyboardInterrupt(f"stopped; go on with --resume auto (state in {output / LAST})")
    card = run_card(recipe, compute, best_step=keeper.best_step, scores=keeper.last_scores)
    write_run_card(card, [output, output / "best", output / "last"])
    _say(f"best model: {output / 'best'} (step {keeper.best_step})")
    return output / "best"


def _tune_stacks(model: LangCell, recipe: Recipe, compute: Compute) -> None:
    """Set what changes the speed and memory of the encoders and none of their numbers."""
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
    keeper: Keeper,
    parts: Parts,
    compute: Compute,
    is_resumed: bool,
) -> None:
    settings = recipe.optimisation
    with quiet_lightning(*_EXPECTED):
        trainer = Trainer(
            **trainer_arguments(compute, settings.precision),
            max_steps=settings.steps,
            logger=_loggers(recipe, output),
            callbacks=[keeper],
            log_every_n_steps=recipe.log_every,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(
            module,
            PretrainData(parts.source, parts.builder, n_steps=settings.steps),
            ckpt_path=output / LAST if is_resumed else None,
            weights_only=True,
        )


def _loggers(recipe: Recipe, output: Path) -> list[Logger]:
    loggers: list[Logger] = [
        TensorBoardLogger(output / "logs", name="tensorboard", version=""),
        # A version for each start: a resumed run would delete the earlier lines.
        CSVLogger(output / "logs", name="csv", flush_logs_every_n_steps=1),
    ]
    if recipe.wandb:
        if find_spec("wandb") is None:
            raise ValueError("wandb: not installed; pip install 'langcell[wandb]', or leave it out")
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


def _check_run(recipe: Recipe, output: Path, resume: bool) -> None:
    """Raise unless the run in the folder may go on with this recipe."""
    if not resume:
        raise FileExistsError(
            f"{output} holds a run already; go on with --resume auto, or give another output="
        )
    path, present = output / "recipe.yaml", recipe.model_dump(mode="json")
    earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
    strategies = [each.get("compute", {}).get("strategy", "ddp") for each in (earlier, present)]
    differences = [
        _difference(key, earlier.get(key), present[key])
        for key in present
        if key not in _FREE and present[key] != earlier.get(key)
    ]
    if strategies[0] != strategies[1]:  # the optimiser's state is grouped in another way
        differences.append(_difference("compute.strategy", *strategies))
    if differences:
        raise ValueError(
            f"the run in {output} was started with {differences[0]}; resume with its own recipe "
            f"({path}), or give another output="
        )


def _begin_run(recipe: Recipe, output: Path) -> None:
    """Make the folder of a run."""
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    (output / "recipe.yaml").write_text(text, encoding="utf-8")


def _difference(key: str, earlier: Any, now: Any) -> str:
    """Say which value of a recipe is another one, by its dotted key."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        name = next(name for name in now if now[name] != earlier.get(name))
        return _difference(f"{key}.{name}", earlier.get(name), now[name])
    return f"another {key}: {earlier}, not {now}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_nothing(line: str) -> None:
    """Leave saying it to the first process."""
