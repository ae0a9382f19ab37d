"""Runs that a benchmark makes and reuses, the parts that are taken out, and their table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.scoring.model_scores import candidate_scores
from benchmarks.training.ablation import (
    FIGURES,
    RunScore,
    choose_parts,
    print_summary,
    run_of,
    summary,
)
from benchmarks.training.ablation_parts import PARTS, has_licence, kept_sources
from benchmarks.training.runs import RECIPE, Run
from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from pretrain.recipe.cell_config import Source
from pretrain.recipe.recipe_file import find_recipe, read_recipe
from zeroshot.labels.candidates import (
    all_candidates,
    candidate_features,
    candidate_offsets,
    own_candidates,
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a manifest of all files of the recipe, every third without a licence."""
    files = [file for source in _sources() for file in source.files]
    rows = [
        f"{Path(file).stem}\t{'none stated (elsewhere MIT)' if i % 3 == 0 else 'MIT'}"
        for i, file in enumerate(files)
    ]
    (tmp_path / "manifest.tsv").write_text("name\tlicence\n" + "\n".join(rows) + "\n")
    return tmp_path


def _sources() -> tuple[Source, ...]:
    return read_recipe(find_recipe(Path(RECIPE))).sources


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.key)
def test_each_part_is_a_recipe_of_its_own(part, corpus: Path) -> None:
    recipe = run_of(part, 2, corpus, corpus).recipe
    full = run_of(PARTS[0], 2, corpus, corpus).recipe
    changed = {
        key
        for key in type(full).model_fields
        if key != "output" and getattr(recipe, key) != getattr(full, key)
    }
    sections = {override.split(".")[0] for override in part.overrides}
    assert changed == sections | ({"sources"} if part.keeps else set())
    assert recipe.seed == 2
    assert not recipe.validation.files


def test_files_without_a_licence_are_left_out(corpus: Path) -> None:
    kept = kept_sources(corpus, has_licence)
    n_files = sum(len(source.files) for source in _sources())
    names = [file for source in kept for file in source["files"]]  # type: ignore[attr-defined]
    assert len(names) == n_files - -(-n_files // 3)
    assert not has_licence(_sources()[0], "None stated in repo")
    assert [Source.model_validate(source).scale for source in kept]


def test_cells_and_profiles_part_the_sources(corpus: Path) -> None:
    by_key = {part.key: part for part in PARTS}
    kinds = {}
    for key in ("cells", "profiles"):
        (override,) = by_key[key].values(corpus)
        found = json.loads(override.removeprefix("sources="))
        kinds[key] = {source["kind"] for source in found}
    assert kinds == {"cells": {"cells"}, "profiles": {"profiles"}}


def test_a_finished_run_is_reused_and_another_recipe_refused(tmp_path: Path) -> None:
    run = Run(folder=tmp_path / "run", overrides=("seed=4",), corpus=tmp_path)
    with pytest.raises(FileNotFoundError, match="pass --train"):
        run.check()
    run.model.mkdir(parents=True)
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(run.recipe.model_dump(mode="json")))
    run.train()  # nothing to do: no log is written
    run.check()
    assert not (run.folder / "train.log").exists()
    other = Run(folder=run.folder, overrides=("seed=5",), corpus=tmp_path)
    with pytest.raises(ValueError, match="another seed"):
        other.check()


def test_a_failed_run_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    run = Run(folder=tmp_path / "run", overrides=(), corpus=tmp_path)
    with pytest.raises(RuntimeError, match="train.log"):
        run.train()
    assert not run.is_finished


def test_the_table_gives_means_and_the_spread_over_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def score(title: str, seed: int, value: float) -> RunScore:
        figures = pd.Series([value] * 5, index=[*FIGURES, "Study A"])
        return RunScore(title=title, seed=seed, figures=figures)

    table = summary([score("full", 1, 0.5), score("full", 2, 0.7), score("less", 1, 0.4)])
    assert table.loc["full", "own mF1"] == pytest.approx(0.6)
    assert table.loc["full, sd over seeds", "Study A"] == pytest.approx(np.sqrt(0.02))
    assert table.loc["less", "seeds"] == 1
    print_summary(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["full", "2", *["0.600"] * 4, "|", "0.600"]


def test_parts_are_chosen_by_name() -> None:
    assert [part.key for part in choose_parts("svd,full")] == ["full", "svd"]
    assert len(choose_parts(None)) == len(PARTS)
    with pytest.raises(ValueError, match="unknown part 'x'"):
        choose_parts("x")


def test_offsets_make_chosen_labels_compete_evenly(tiny_model: Path) -> None:
    ontology = Ontology.bundled()
    model = LangCell.from_pretrained(tiny_model)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    model.reference = ReferenceCells(features=features.astype(np.float16))
    choice = own_candidates(["CL:0000236", "CL:0000084", "CL:0000540"], ontology)
    plain = candidate_scores(model, features, choice, even=False)
    even = candidate_scores(model, features, choice)
    shift = even - plain  # up to what a cell's probabilities are divided by
    offsets = candidate_offsets(choice, candidate_features(choice, model), model)
    assert offsets is not None and np.ptp(offsets) > 0.01
    wanted = -model.scale.item() * (offsets - offsets[0])
    np.testing.assert_allclose(shift - shift[:, :1], np.tile(wanted, (50, 1)), atol=1e-3)


def test_a_whole_ontology_is_scored_with_what_labels_pass_down(tiny_model: Path) -> None:
    model = LangCell.from_pretrained(tiny_model)
    features = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    everything = all_candidates(Ontology.bundled())
    assert everything.subtypes is not None
    plain = candidate_scores(model, features, everything, even=False)
    passed = candidate_scores(model, features, everything)
    np.testing.assert_allclose(passed, everything.subtypes.pass_down(plain), rtol=1e-6)
    assert np.abs(passed - plain).max() > 0.01
