"""Pretraining end to end on a tiny corpus: the run, its resumption, and what is refused."""

import configparser
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy import sparse
from typer.testing import CliRunner

from langcell.model.langcell import LangCell
from pretrain.cells.linear_teacher import FILE as LINEAR_TEACHER
from pretrain.cells.step_cells import StepCells
from pretrain.commands.pretrain import EXAMPLE, app, slurm
from pretrain.commands.slurm import seconds_of
from pretrain.parallel.gather import World
from pretrain.recipe.recipe_file import find_recipe, read_recipe
from pretrain.run.dry_run import plan
from pretrain.run.training import train
from pretrain.steps.collator import Collator, StepBatch
from tests.support.command_line import run_apart, run_langcell
from tests.support.pretraining_files import logged_losses, write_recipe

ROOT = Path(__file__).parents[2]
TERMS = ("CL:0000236", "CL:0000084", "CL:0000540", "CL:0000066")


def write_study(path: Path, genes: list[str], *, n_cells: int, seed: int, linear: bool) -> None:
    """Cells of four types, each with 60 genes of its own; two rows without a type."""
    rng = np.random.default_rng(seed)
    types = np.arange(n_cells) % len(TERMS)
    rates = np.full((n_cells, len(genes)), 1.2)
    for row, each in enumerate(types):
        rates[row, 60 * each : 60 * (each + 1)] = 8
    values = rng.poisson(rates).astype(np.float32)
    ids = np.array(TERMS, dtype=object)[types]
    ids[-2:] = ""
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": ids,
            "study": path.stem,
            "tissue_ontology_term_id": "UBERON:0002048",
            "stage": "adult",
        },
        index=[str(row) for row in range(n_cells)],
    )
    if linear:
        values = values * 1.5
    anndata.AnnData(sparse.csr_matrix(values), obs, pd.DataFrame(index=genes)).write_h5ad(path)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, n_cells, seed, linear in (
        ("cells", 60, 0, False),
        ("more", 40, 1, False),
        ("means", 12, 2, True),
        ("held_out", 40, 3, False),
    ):
        path = folder / f"{name}.h5ad"
        write_study(path, coding_genes, n_cells=n_cells, seed=seed, linear=linear)
    return folder


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a recipe of six steps."""
    monkeypatch.setenv("LANGCELL_CACHE", str(corpus / "cache"))
    return write_recipe(
        tmp_path / "recipe.yaml",
        corpus_root=str(corpus),
        output=str(tmp_path / "run"),
        sources=[
            {"files": ["cells.h5ad", "more.h5ad"]},
            {"files": ["means*"], "kind": "profiles", "scale": "linear"},
        ],
        vocabulary={"min_sources": 1, "n_draws": 500},
        optimisation={"steps": 6, "batch_size": 16, "warmup": 2, "lr": 0.003, "average": 0.5},
    )


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGTERM while the batch of a step is built."""
    build = Collator.build

    def build_and_stop(self: Collator, cells: StepCells, world: World) -> StepBatch:
        if cells.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return build(self, cells, world)

    monkeypatch.setattr(Collator, "build", build_and_stop)


def test_a_resumed_run_equals_one_that_was_not_stopped(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(read_recipe(recipe, [f"output={straight}"]))
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt, match="--resume auto"):
            train(read_recipe(recipe, [f"output={broken}"]))
    assert signal.getsignal(signal.SIGTERM) is before
    n_before = len(logged_losses(broken))
    assert 0 < n_before < 6
    with pytest.raises(FileExistsError, match="--resume auto"):
        train(read_recipe(recipe, [f"output={broken}"]))
    for key, now in (("seed", 1), ("optimisation.clip", 0.5)):
        with pytest.raises(ValueError, match=rf"with another {key}: .*, not {now}; resume with"):
            train(read_recipe(recipe, [f"output={broken}", f"{key}={now}"]), resume=True)
    train(read_recipe(recipe, [f"output={broken}"]), resume=True)
    assert len(logged_losses(straight)) == 6
    assert logged_losses(broken) == logged_losses(straight)
    for name in ("best", "last"):
        one, other = (load_file(run / name / "model.safetensors") for run in (straight, broken))
        assert all((one[key] == other[key]).all() for key in one)
    said = capsys.readouterr().err
    assert "validation macro-F1" in said and f"resuming after step {n_before}\n" in said


# Nothing here is drawn in the process that it is for: masks, dropout, dropped tokens.
SHARED = (
    *("model.kind=bag", "model.bag_size=16", "model.dropout=0", "losses.masked_gene=0"),
    *("losses.matching=0", "losses.cell_cell=0.5", "losses.second_views=16"),
    *("augmentation.keep_tokens=1", "augmentation.mask=0", "compute.accelerator=cpu"),
)


def losses_as_numbers(output: Path) -> list[float]:
    return [float(each) for _, each in sorted(logged_losses(output).items())]


def test_two_processes_learn_what_one_does(recipe: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    train(read_recipe(recipe, [*SHARED, f"output={alone}"]))
    words = [*SHARED, "compute.devices=2", "optimisation.part=4", f"output={tmp_path / 'two'}"]
    done = run_apart("pretrain", "--config", recipe, *words)
    assert done.stdout == f"{tmp_path / 'two' / 'best'}\n"
    assert done.stderr.count(" rows of ") == 1  # the first process speaks for both
    np.testing.assert_allclose(
        losses_as_numbers(tmp_path / "two"), losses_as_numbers(alone), rtol=2e-4
    )
    one, two = (
        load_file(tmp_path / run / "last" / "model.safetensors") for run in ("alone", "two")
    )
    for key in one:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-2, atol=2e-4, err_msg=key)


def test_what_processes_cannot_do_is_refused(recipe: Path, tmp_path: Path) -> None:
    wanted = [
        (["compute.devices=3"], "batch_size 16 must be a multiple of the 3 processes"),
        (["compute.strategy=fsdp"], "fsdp keeps no averaged weights"),
        (
            ["compute.strategy=fsdp", "optimisation.average=0"],
            "fsdp needs CUDA, but no CUDA device",
        ),
        (["compute.accelerator=cuda"], "compute.devices is 1, but only 0 CUDA devices"),
    ]
    for words, message in wanted:
        done = run_langcell(tmp_path, "pretrain", "--config", recipe, *words)
        assert done.returncode == 1
        assert message in done.stderr.strip().splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_a_new_run_fits_its_linear_teacher_first(recipe: Path, tmp_path: Path) -> None:
    first = train(read_recipe(recipe, [f"output={tmp_path / 'teacher'}", "optimisation.steps=1"]))
    words = [f"teachers=[{first}]", "linear_teacher.steps=3", "losses.distillation=1"]
    train(read_recipe(recipe, [*words, "optimisation.steps=1"]))
    assert (tmp_path / "run" / LINEAR_TEACHER).is_file()


def test_a_run_learns_and_its_model_encodes(recipe: Path, tmp_path: Path, corpus: Path) -> None:
    output = tmp_path / "run"
    overrides = ["optimisation.steps=25", "optimisation.lr=0.01", "validation.every=25"]
    result = CliRunner().invoke(app, ["--config", str(recipe), *overrides], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.strip().endswith("best")
    losses = [float(loss) for loss in logged_losses(output).values()]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    model = LangCell.from_pretrained(output / "best")
    features = model.encode_cells(corpus / "held_out.h5ad")
    assert features.shape == (40, 16)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert model.label_embeddings is not None
    assert set(TERMS) <= set(model.label_embeddings.term_ids)
    assert list((output / "logs" / "tensorboard").rglob("events*"))


def test_a_dry_run_counts_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--config", str(recipe), "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "106 rows of 4 types from 3 studies in 3 files" in result.stdout
    assert "over at most 400 genes: cell encoder " in result.stdout
    assert "text encoder (frozen) 22,564,608" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["corpus_root="], "corpus_root=FOLDER"),
        (["corpus_root=/nowhere"], "corpus_root /nowhere is not a folder"),
        (["sources=[{files: [absent.h5ad]}]"], "no file matches absent.h5ad"),
        (["sources=[{files: [cells.h5ad, c*]}]"], "names cells.h5ad twice"),
        (["columns.term_id=celltype"], "no obs column 'celltype'"),
        (["columns.term_id=study"], "no row of the 3 training files has a term of CL"),
        (["validation.files=[{path: x.h5ad, study: x}]"], "does not exist"),
        (["ontology=/nowhere.obo"], "nowhere.obo"),
        (["output=/dev/null/run"], "cannot write output"),
        (["text.tower=./no_tower"], "no_tower"),
        (["model.start_from=/nowhere/model"], "no checkpoint folder '/nowhere/model'"),
    ],
)
def test_a_dry_run_names_what_a_run_would_fail_on(
    recipe: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        plan(read_recipe(recipe, overrides))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_h5ad_is_named(recipe: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5ad").write_text("no")
    with pytest.raises(ValueError, match="text.h5ad is not a readable h5ad"):
        plan(read_recipe(recipe, [f"corpus_root={tmp_path}", "sources=[{files: [text.h5ad]}]"]))


def test_unknown_ids_are_reported_and_skipped(
    recipe: Path,
    tmp_path: Path,
    coding_genes: list[str],
    make_cells: Callable[..., anndata.AnnData],
) -> None:
    cells = make_cells(6)
    cells.obs["cell_type_ontology_term_id"] = [
        "CL:0000236",
        "CL:9999999",
        "",
        "x",
        "CL:0000084",
        "",
    ]
    cells.write_h5ad(tmp_path / "odd.h5ad")
    planned = plan(
        read_recipe(
            recipe,
            [f"corpus_root={tmp_path}", "sources=[{files: [odd.h5ad]}]", "validation.files=[]"],
        )
    )
    (file,) = planned.files
    assert file.n_kept == 2
    assert file.unknown == ("CL:9999999", "x")


def test_examples_of_the_help_start_from_no_earlier_run() -> None:
    for text in (EXAMPLE, str(slurm.__doc__)):
        words = (
            text.partition("Example: langcell pretrain ")[2].split("\n")[0].split(" > ")[0].split()
        )
        name = words[words.index("--config") + 1]
        recipe = read_recipe(find_recipe(Path(name)), [word for word in words if "=" in word])
        assert not recipe.model.start_from


def test_a_slurm_job_says_what_it_needs_and_runs_the_recipe(recipe: Path, tmp_path: Path) -> None:
    words = [
        "pretrain",
        "slurm",
        "--config",
        recipe,
        "--nodes",
        2,
        "--gpus",
        4,
        "--partition",
        "gpu",
    ]
    done = run_langcell(tmp_path, *words, "output=runs/with space")
    assert done.returncode == 0, done.stderr
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "partition=gpu", "requeue"):
        assert f"#SBATCH --{line}\n" in done.stdout
    assert "\nsrun --cpus-per-task=8 " in done.stdout
    assert "--resume auto" in done.stdout and "'output=runs/with space'" in done.stdout
    assert "compute.devices=4 compute.nodes=2" in done.stdout
    script = tmp_path / "job.sbatch"
    script.write_text(done.stdout)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    refused = run_langcell(tmp_path, *words[:4], "--gpus", 3)
    assert refused.returncode == 1 and "must be a multiple of the 3 processes" in refused.stderr


# Stand-ins for SLURM's programs: the run tells the script to stop, and ends when scancel says so.
RUN_STOPPED = """
kill -USR1 $PPID
until [ -f signalled ]; do sleep 0.01; done
"""
SCANCEL = 'echo "$@" > signalled'
SCONTROL = 'echo "$@" > told'


@pytest.mark.parametrize(
    ("run", "status", "requeued"),
    [
        (RUN_STOPPED, 130, True),
        (RUN_STOPPED, 137, True),  # of a process that was killed because the first had ended
        (RUN_STOPPED, 0, False),  # it came to its end meanwhile
        ("", 0, False),
        ("", 1, False),
        ("", 130, False),  # cancelled by the user
    ],
)
def test_a_slurm_job_goes_back_into_the_queue_only_when_its_time_is_over(
    recipe: Path, tmp_path: Path, run: str, status: int, requeued: bool
) -> None:
    job = run_langcell(tmp_path, "pretrain", "slurm", "--config", recipe).stdout
    programs = {"srun": f"{run}\nexit {status}", "scancel": SCANCEL, "scontrol": SCONTROL}
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", job],
        cwd=tmp_path,
        env={"PATH": path, "SLURM_JOB_ID": "17"},
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    if run:
        assert (tmp_path / "signalled").read_text() == "--signal=TERM 17\n"
    assert (tmp_path / "told").is_file() == requeued
    if requeued:
        assert (tmp_path / "told").read_text() == "requeue 17\n"


def test_a_folder_of_that_name_does_not_hide_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("tiny")).is_file()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--cpus", 0], 2, "--cpus"),
        (["--gpus", 0], 2, "--gpus"),
        (["--nodes", 0], 2, "--nodes"),
        (["--time", "one day"], 1, "--time must be minutes, .*; got 'one day': pass 24:00:00"),
        (["--time", "1:2:3:4"], 1, "got '1:2:3:4'"),
        (["--time", "6:00"], 1, "--time must be longer than 6 minutes, .*; got '6:00'"),
    ],
)
def test_a_slurm_job_that_cannot_be_is_refused(
    recipe: Path, tmp_path: Path, words: list[object], status: int, message: str
) -> None:
    done = run_langcell(tmp_path, "pretrain", "slurm", "--config", recipe, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.search(message, done.stderr) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("7", 420),
        ("7:30", 450),
        ("2:07:30", 7650),
        ("1-2", 93600),
        ("1-2:30", 95400),
        ("1-2:30:15", 95415),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


def test_an_image_is_given_all_that_pip_installs_from_and_nothing_else(
    tmp_path: Path,
) -> None:
    done = run_langcell(tmp_path, "pretrain", "apptainer", "--base", "docker://python:3.12")
    assert done.stdout.startswith("Bootstrap: docker\nFrom: python:3.12\n")
    listed = done.stdout.partition("%files\n")[2].partition("\n\n")[0].splitlines()
    files = dict(line.split() for line in listed)
    assert all(target == f"/opt/langcell/{name}" for name, target in files.items())
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options.packages.find"]["include"].replace("*", "").split()
    named = {setup["metadata"]["license_files"], "README.md", "setup.cfg", "pyproject.toml"}
    assert set(files) == {*packages, *named, "MANIFEST.in", "constraints.txt"}
    assert all((ROOT / name).exists() for name in files)


@pytest.mark.parametrize("base", ["python:3.12", "docker://", ""])
def test_an_image_from_nowhere_is_refused(tmp_path: Path, base: str) -> None:
    done = run_langcell(tmp_path, "pretrain", "apptainer", "--base", base)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"as docker://python:3.12-slim; got '{base}'" in done.stderr
