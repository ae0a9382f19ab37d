"""Recipes: reading, overrides, and errors that say what is wrong in one line."""

from pathlib import Path

import pytest

from pretrain.recipe.config import Optimisation, Recipe
from pretrain.recipe.recipe_file import find_recipe, read_recipe
from pretrain.recipe.sources import find_sources
from pretrain.run.module import learning_rate_factor


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("sources: [{files: [a.h5ad], scale: log2}]\noptimisation: {steps: 7}\n")
    return path


def test_overrides_replace_single_values(recipe: Path) -> None:
    read = read_recipe(recipe, ["optimisation.lr=0.1", "seed=3", "corpus_root=x"])
    assert (read.optimisation.steps, read.optimisation.lr, read.seed) == (7, 0.1, 3)
    assert read.sources[0].scale == "log2"
    assert read.corpus_root == "x"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimisation.stps=5", ["optimisation.stps", "'steps'"]),
        ("sources=[{fles: [a]}]", ["sources.0.fles", "'files'"]),
        ("sources=[{files: [a], scale: tpm}]", ["sources.0.scale", "linear", "'tpm'"]),
        ("optimisation.steps=0", ["optimisation.steps", "greater than or equal to 1", "0"]),
        ("augmentation.depth=[5, 1]", ["depth", "low <= high"]),
        ("seed", ["'seed'", "key=value"]),
        ("seed.x=1", ["seed.x=1"]),
        ("model.dropout=abc", ["model.dropout", "number", "'abc'"]),
    ],
)
def test_a_wrong_override_is_named_in_one_line(
    recipe: Path, override: str, words: list[str]
) -> None:
    recipe.write_text(recipe.read_text() + "seed: 0\n")
    with pytest.raises(ValueError) as error:
        read_recipe(recipe, [override])
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_recipe_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        read_recipe(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ValueError, match="broken.yaml is not YAML"):
        read_recipe(broken)


@pytest.mark.parametrize("name", ["mini", "mini-fast", "mini-fast-member", "tiny"])
def test_bundled_recipes_are_valid(name: str) -> None:
    assert isinstance(read_recipe(find_recipe(Path(name))), Recipe)


@pytest.mark.parametrize(
    "name", ["geneformer-6L", "geneformer-12L", "104M", "paper-stage1", "paper-stage2"]
)
def test_recipes_of_a_size_take_the_cells_from_the_command_line(name: str) -> None:
    for cells in ("shards.folder=x", "sources=[{files: [x.h5ad]}]"):
        assert isinstance(read_recipe(find_recipe(Path(name)), [cells]), Recipe)
    with pytest.raises(ValueError, match=r"needs sources \(files\) or shards.folder"):
        read_recipe(find_recipe(Path(name)))
    both = ["shards.folder=x", "sources=[{files: [x.h5ad]}]"]
    with pytest.raises(ValueError, match=r"got both: set sources=\[\] to use the shards"):
        read_recipe(find_recipe(Path(name)), both)
    assert not read_recipe(find_recipe(Path(name)), [*both, "sources=[]"]).sources


def test_the_mini_recipe_names_every_training_file_once(shared: Path) -> None:
    read = read_recipe(find_recipe(Path("mini")), [f"corpus_root={shared / 'corpus'}"])
    named = {source.path for source in find_sources(read)}
    assert named == set((shared / "corpus" / "train").glob("*/*.h5ad"))
    declared = {file.path for file in read.validation.files}
    assert all((shared / "corpus" / path).is_file() for path in declared)


def test_a_recipe_extends_another_and_wins_over_it(recipe: Path, tmp_path: Path) -> None:
    above = tmp_path / "above.yaml"
    above.write_text("extends: recipe.yaml\nseed: 4\noptimisation: {lr: 0.1}\n")
    read = read_recipe(above, ["optimisation.steps=9"])
    assert (read.seed, read.optimisation.lr, read.optimisation.steps) == (4, 0.1, 9)
    assert read.sources[0].scale == "log2"


def test_a_recipe_that_extends_itself_or_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ValueError, match="extends itself"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: absent.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        read_recipe(tmp_path / "c.yaml")


def test_teachers_and_their_loss_go_together(recipe: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        read_recipe(recipe, ["teachers=[somewhere]"])
    with pytest.raises(ValueError, match="go together"):
        read_recipe(recipe, ["losses.distillation=1"])


def test_a_bag_with_masked_genes_is_refused(recipe: Path) -> None:
    with pytest.raises(ValueError, match="masked genes"):
        read_recipe(recipe, ["model.kind=bag", "model.bag_size=8"])


def test_the_learning_rate_warms_up_and_then_falls() -> None:
    settings = Optimisation(steps=100, warmup=10, final_lr=0.1)
    factors = [learning_rate_factor(step, settings) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert factors[10] == max(factors) == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("linear", [1.0, 0.55, 0.1]),
        ("constant", [1.0, 1.0, 1.0]),
        ("decay", [1.0, 1.0, 0.1]),
    ],
)
def test_schedules_end_where_they_should(schedule: str, wanted: list[float]) -> None:
    settings = Optimisation.model_validate(
        {"steps": 110, "warmup": 10, "final_lr": 0.1, "schedule": schedule, "decay": 0.2}
    )
    found = [learning_rate_factor(step, settings) for step in (10, 60, 110)]
    assert found == pytest.approx(wanted)
    if schedule == "decay":  # half-way down the last fifth
        assert learning_rate_factor(100, settings) == pytest.approx(0.55)
