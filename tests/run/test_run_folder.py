"""What the folder of a run holds, and what a run that begins or goes on there makes of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.recipe.random_state import repeatable
from pretrain.recipe.recipe_file import read_recipe
from pretrain.run.training import train
from tests.support.corpus_files import make_study
from tests.support.pretraining_files import logged_losses, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> Path:
    """Path of a recipe of four steps that validates twice."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("cells", "held_out")):
        make_study(coding_genes, 60, seed=seed).write_h5ad(folder / f"{name}.h5ad")
    return write_recipe(
        folder / "recipe.yaml",
        corpus_root=str(folder),
        output=str(folder / "run"),
        sources=[{"files": ["cells.h5ad"]}],
        vocabulary={"min_sources": 1, "n_draws": 200},
        optimisation={"steps": 4, "batch_size": 16, "warmup": 2, "lr": 0.003, "average": 0.0},
        validation={
            "every": 2,
            "min_cells": 5,
            "files": [{"path": "held_out.h5ad", "study": "held out"}],
        },
        log_every=3,
        text={"train": "frozen", "candidates": "corpus", "max_tokens": 32},
    )


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """Folder of a finished run."""
    return train(read_recipe(recipe)).parent


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Folder of an unfinished run, whose last checkpoint is that of its last step."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    (folder / "run.json").unlink()
    return folder


def card_of(run: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((run / "run.json").read_text())
    return card


def go_on(recipe: Path, run: Path, *changes: str, resume: bool = True) -> Path:
    return train(read_recipe(recipe, [f"output={run}", *changes]), resume=resume)


def test_the_card_says_what_the_best_and_the_last_model_reached(finished: Path) -> None:
    card = card_of(finished / "best")
    assert card["best_step"] in (2, 4)
    (best,), (last,) = card["best_validation"], card["last_validation"]
    assert best["study"] == last["study"] == "held out"
    assert best["macro_f1"] >= last["macro_f1"]
    assert (best == last) == (card["best_step"] == 4)
    assert card["last_losses"]["loss"] > 0
    assert card["data_sha256"] == (finished / "data.sha256").read_text().strip()


def test_logs_have_rates_and_the_last_step_under_the_numbers_that_progress_shows(
    finished: Path,
) -> None:
    for name in ("train/loss", "lr", "rate/cells_per_s", "rate/tokens_per_s"):
        assert list(logged_losses(finished, name)) == [3, 4]
    assert list(logged_losses(finished, "validation/macro_f1")) == [2, 4]


def test_others_may_read_what_a_run_wrote(finished: Path) -> None:
    modes = {file.stat().st_mode & 0o777 for file in (finished / "best").iterdir()}
    assert modes == {0o644}


def test_a_finished_run_is_left_as_it_is(
    recipe: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert go_on(recipe, finished) == finished / "best"
    assert capsys.readouterr().err.endswith("has already finished\n")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    with pytest.raises(FileExistsError, match="holds a run already"):
        go_on(recipe, finished, resume=False)


def test_a_run_without_its_checkpoint_is_not_written_over(recipe: Path, run: Path) -> None:
    (run / "last.ckpt").unlink()
    with pytest.raises(FileExistsError, match="holds a run already"):
        go_on(recipe, run, resume=False)
    with pytest.raises(FileExistsError, match=r"a run without last\.ckpt.*another output"):
        go_on(recipe, run)


@pytest.mark.parametrize("damage", ["empty", "text", "short", "changed"])
def test_a_damaged_checkpoint_is_named(recipe: Path, run: Path, damage: str) -> None:
    path = run / "last.ckpt"
    content = path.read_bytes()
    middle = content.index(b"data/") + len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "text": b"no checkpoint",
            "short": content[: len(content) // 2],
            "changed": content[:middle] + bytes(64) + content[middle + 64 :],
        }[damage]
    )
    with pytest.raises(
        ValueError, match=r"last\.ckpt is missing or damaged \(.*: restore it from a copy"
    ):
        go_on(recipe, run)


@pytest.mark.parametrize("name", ["recipe.yaml", "genes.tsv"])
@pytest.mark.parametrize("content", [None, ""])
def test_what_else_a_run_goes_on_with_is_named(
    recipe: Path, run: Path, name: str, content: str | None
) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(
        ValueError, match=rf"{name} is missing or damaged \(.*: restore it from a copy"
    ):
        go_on(recipe, run)


def test_a_run_goes_on_with_the_data_that_it_began_with_alone(
    recipe: Path, run: Path, tmp_path: Path
) -> None:
    stale = run / ".last.ckpt.0123.tmp"
    stale.touch()
    for file in recipe.parent.glob("*.h5ad"):
        shutil.copy(file, tmp_path)
    (tmp_path / "cells.h5ad").write_bytes((tmp_path / "held_out.h5ad").read_bytes())
    with pytest.raises(ValueError, match="the training data of the run in .* have changed"):
        go_on(recipe, run, f"corpus_root={tmp_path}")
    shutil.copy(recipe.parent / "cells.h5ad", tmp_path)
    go_on(recipe, run, f"corpus_root={tmp_path}")
    assert not stale.exists()
    # Killed after its last step, it lacked the card alone; what that says is in the checkpoint.
    for name in ("best_step", "best_validation", "last_validation", "last_losses"):
        assert card_of(run)[name] == card_of(recipe.parent / "run")[name]


def test_sums_have_one_order_on_a_cpu_alone() -> None:
    for accelerator, is_exact in (("cpu", True), ("cuda", False)):
        with repeatable(accelerator):
            assert torch.are_deterministic_algorithms_enabled() == is_exact
        assert not torch.are_deterministic_algorithms_enabled()
