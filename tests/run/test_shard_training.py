"""Training from shards: the run, its resumption, what varies a cell, and what is refused."""

import signal
import subprocess
import sys
from collections import Counter
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from langcell.counts.reader import open_counts
from langcell.model.langcell import LangCell
from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.token_corpus import TokenCorpus
from ontology.graph import Ontology
from pretrain.cells.mean_expression import gene_variability
from pretrain.cells.shard_cells import ShardSource, augment
from pretrain.cells.shard_sampler import ShardSampler
from pretrain.cells.shard_types import shard_type_means, shard_types
from pretrain.cells.step_cells import StepCells
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions
from pretrain.parallel.gather import World
from pretrain.recipe.cell_config import Augmentation
from pretrain.recipe.config import Recipe
from pretrain.recipe.recipe_file import read_recipe
from pretrain.run.callbacks import RunCallback
from pretrain.run.dry_run import plan
from pretrain.run.module import PretrainModule
from pretrain.run.training import train
from pretrain.steps.collator import Collator, StepBatch
from tests.support.command_line import run_apart
from tests.support.corpus_files import TERMS, make_study
from tests.support.pretraining_files import logged_losses, write_recipe


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> TokenCorpus:
    """120 cells of two studies, of which the second measures 60 genes alone."""
    folder = tmp_path_factory.mktemp("shards")
    make_study(coding_genes, 70, seed=0).write_h5ad(folder / "a.h5ad")
    make_study(coding_genes, 50, seed=1)[:, 30:90].copy().write_h5ad(folder / "b.h5ad")
    make_study(coding_genes, 40, seed=2).write_h5ad(folder / "held_out.h5ad")
    options = BuildOptions(min_genes=20, max_genes=128, shard_cells=40)
    build_corpus(folder / "corpus", [str(folder / "a.h5ad"), str(folder / "b.h5ad")], options)
    return TokenCorpus(folder / "corpus")


@pytest.fixture
def recipe(shards: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a recipe of eight steps, more than an epoch."""
    monkeypatch.setenv("LANGCELL_CACHE", str(shards.folder.parent / "cache"))
    return write_recipe(
        tmp_path / "recipe.yaml",
        corpus_root=str(shards.folder.parent),
        output=str(tmp_path / "run"),
        shards={"folder": str(shards.folder), "block_cells": 6, "pool_cells": 40},
        balance={"study_share": 0.6},
        optimisation={"steps": 8, "batch_size": 20, "warmup": 2, "lr": 0.003, "average": 0.5},
        reference_cells=50,
    )


def open_source(recipe: Recipe, corpus: TokenCorpus) -> ShardSource:
    types = shard_types(corpus, Ontology.bundled())
    sampler = ShardSampler(corpus, recipe.balance, seed=recipe.seed, block_cells=6)
    variability = gene_variability(shard_type_means(corpus, types, n_cells=100))
    return ShardSource(recipe, sampler, types, variability)


def same(one: StepCells, other: StepCells) -> bool:
    assert one.second is not None and other.second is not None
    return (
        one.step == other.step
        and np.array_equal(one.tokens.tokens, other.tokens.tokens)
        and np.array_equal(one.tokens.offsets, other.tokens.offsets)
        and np.array_equal(one.second.tokens, other.second.tokens)
        and np.array_equal(one.measured, other.measured)
        and np.array_equal(one.terms, other.terms)
    )


def test_a_run_from_shards_learns_and_a_stopped_one_ends_with_the_same_weights(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: TokenCorpus
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(read_recipe(recipe, [f"output={straight}"]))
    build = Collator.build
    seen: list[int] = []

    def build_and_stop(self: Collator, cells: StepCells, world: World) -> StepBatch:
        seen.append(cells.step)
        if cells.step == 3 and seen.count(3) == 1:
            signal.raise_signal(signal.SIGTERM)
        return build(self, cells, world)

    monkeypatch.setattr(Collator, "build", build_and_stop)
    with pytest.raises(KeyboardInterrupt, match="--resume auto"):
        train(read_recipe(recipe, [f"output={broken}"]))
    assert 0 < len(logged_losses(broken)) < 8
    train(read_recipe(recipe, [f"output={broken}"]), resume=True)
    assert logged_losses(broken) == logged_losses(straight)
    one, other = (load_file(run / "last/model.safetensors") for run in (straight, broken))
    assert all((one[key] == other[key]).all() for key in one)
    losses = [float(loss) for loss in logged_losses(straight).values()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    model = LangCell.from_pretrained(straight / "best")
    assert model.genes.ensembl_ids == shards.vocabulary.ensembl_ids
    with open_counts(shards.folder.parent / "held_out.h5ad") as matrix:
        assert model.encode_cells(shards.folder.parent / "held_out.h5ad").shape == (
            matrix.n_cells,
            16,
        )


def test_two_processes_read_their_own_shards_and_go_on(
    recipe: Path, shards: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches that are limited by tokens, so that one may have more cells and more parts."""
    limits = ["shards.max_tokens=700", "shards.bucket_cells=20", "optimisation.part=3"]
    monkeypatch.setattr(World, "gather_objects", lambda self, value: [value])
    sizes = [
        [
            step.tokens.n_cells
            for step in islice(
                open_source(read_recipe(recipe, limits), shards).steps(0, World(rank=rank, size=2)),
                8,
            )
        ]
        for rank in range(2)
    ]
    assert any((a <= 3) != (b <= 3) for a, b in zip(*sizes, strict=True))
    words = ["compute.devices=2", "compute.accelerator=cpu", *limits]
    command = ["pretrain", "--config", str(recipe), *words]
    run_apart(*command, f"output={tmp_path / 'whole'}")
    stopped = tmp_path / "stopped"
    with subprocess.Popen(
        [sys.executable, "-m", "langcell", *command, f"output={stopped}"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 3/8"):
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
    if process.returncode:  # else it was done before the signal came
        run_apart(*command, f"output={stopped}", "--resume", "auto")
    assert logged_losses(stopped) == logged_losses(tmp_path / "whole")
    one, other = (
        load_file(tmp_path / run / "last/model.safetensors") for run in ("whole", "stopped")
    )
    assert all((one[key] == other[key]).all() for key in one)


def test_a_run_that_dies_in_its_last_validation_can_be_ended(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was told to stop in the last step, after which no step is left to go on with."""
    update, validate = PretrainModule.update_average, RunCallback._validate
    died: list[int] = []

    def stop_after_the_last(self: PretrainModule, step: int) -> None:
        if step == 7 and not died:
            signal.raise_signal(signal.SIGTERM)
        update(self, step)

    def die_once(self: RunCallback, model: LangCell, module: PretrainModule, step: int) -> Any:
        if step == 8 and not died:
            died.append(step)
            raise RuntimeError("killed")
        return validate(self, model, module, step)

    monkeypatch.setattr(PretrainModule, "update_average", stop_after_the_last)
    monkeypatch.setattr(RunCallback, "_validate", die_once)
    settings = read_recipe(recipe, ["checkpoint_every=7", "compute.accelerator=cpu"])
    with pytest.raises(RuntimeError, match="killed"):
        train(settings)
    assert not (tmp_path / "run/last").exists()
    train(settings, resume=True)
    assert LangCell.from_pretrained(tmp_path / "run/last").genes.n_genes


SHARED_OUT = """
import signal
import sys
from pathlib import Path
import pretrain.run.training
from pretrain.run.module import PretrainModule
from pretrain.recipe.recipe_file import read_recipe

update, stopped = PretrainModule.update_average, []


def train(*words, resume=False):
    try:
        pretrain.run.training.train(read_recipe(Path(sys.argv[1]), [*sys.argv[2:], *words]), resume=resume)
    except (SystemExit, KeyboardInterrupt) as end:  # not the first process; stopped
        print(end)


def stop_once(self, step):
    if step == 4 and not stopped:
        stopped.append(step)
        signal.raise_signal(signal.SIGTERM)
    update(self, step)


# No CUDA here: weights are shared out among processes of a CPU in the same way.
pretrain.run.training.find_compute = lambda wanted: wanted
train("output=whole")
PretrainModule.update_average = stop_once
train("output=shared", "compute.strategy=fsdp")
assert not Path("shared/last").exists()
train("output=shared", "compute.strategy=fsdp", resume=True)
"""


def test_processes_that_share_weights_out_learn_the_same(recipe: Path, tmp_path: Path) -> None:
    """As processes that each hold all of them, in losses, norms and weights; stopped ones too.

    The matching head has no loss, and so no gradient.
    """
    script = tmp_path / "shared_out.py"
    script.write_text(SHARED_OUT, encoding="utf-8")
    same = ["compute.devices=2", "compute.accelerator=cpu", "optimisation.average=0"]
    same += ["log_every=1", "losses.matching=0"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*run, str(script), str(recipe), *same], check=True, timeout=300, cwd=tmp_path)
    with pytest.raises(ValueError, match="with another compute.strategy: fsdp, not ddp"):
        train(read_recipe(recipe, [*same, f"output={tmp_path / 'shared'}"]), resume=True)
    for name in ("train/loss", "train/gradient_norm"):
        whole, found = (logged_losses(tmp_path / run, name) for run in ("whole", "shared"))
        assert len(whole) == 8 and whole.keys() == found.keys()
        for step, value in whole.items():
            assert float(found[step]) == pytest.approx(float(value), rel=3e-5)
    one, other = (
        load_file(tmp_path / run / "last/model.safetensors") for run in ("whole", "shared")
    )
    assert one.keys() == other.keys()
    for name, weights in one.items():
        np.testing.assert_allclose(other[name], weights, atol=1e-5)


def test_a_killed_run_loses_the_steps_since_its_checkpoint_alone(
    recipe: Path, tmp_path: Path
) -> None:
    """With SIGKILL, which no handler sees."""
    words = ["--config", str(recipe), "compute.accelerator=cpu", "checkpoint_every=3"]
    command = [sys.executable, "-m", "langcell", "pretrain", *words]
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    with subprocess.Popen(
        [*command, f"output={killed}"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 5/8"):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    train(read_recipe(recipe, ["checkpoint_every=3", f"output={straight}"]))
    train(read_recipe(recipe, ["checkpoint_every=3", f"output={killed}"]), resume=True)
    assert logged_losses(killed) == logged_losses(straight)
    one, other = (load_file(run / "last/model.safetensors") for run in (straight, killed))
    assert all((one[key] == other[key]).all() for key in one)


def test_cells_of_steps_go_on_where_they_stood(recipe: Path, shards: TokenCorpus) -> None:
    settings = read_recipe(recipe)
    whole = list(islice(open_source(settings, shards).steps(0, World()), 12))
    source = open_source(settings, shards)
    taken = list(islice(source.steps(0, World()), 6))  # one more than was trained on
    resumed = open_source(settings, shards)
    resumed.load_state(source.state_after(4))
    rest = list(islice(resumed.steps(5, World()), 7))
    assert all(map(same, taken[:5] + rest, whole))
    assert [step.tokens.n_cells for step in whole] == [20] * 12
    with pytest.raises(ValueError, match="has no position in the shards"):
        next(open_source(settings, shards).steps(5, World()))


def test_processes_see_an_epoch_between_them(
    recipe: Path, shards: TokenCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_recipe(recipe, ["balance={by_type: false, study_share: 1}"])
    monkeypatch.setattr(World, "gather_objects", lambda self, value: [value])
    sizes = [len(each) for each in np.array_split(np.arange(20), 2)]
    seen: Counter[int] = Counter()
    for rank in range(2):
        for step in islice(open_source(settings, shards).steps(0, World(rank=rank, size=2)), 6):
            assert step.tokens.n_cells == sizes[rank]
            seen.update(step.terms.tolist())
    assert sum(seen.values()) == len(shards) == 120
    assert seen == cells_of_terms(shards)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_processes_with_batches_limited_by_tokens_see_an_epoch_between_them(
    recipe: Path, shards: TokenCorpus, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    words = ["balance={by_type: false, study_share: 1}", "optimisation.batch_size=24"]
    settings = read_recipe(recipe, [*words, "shards.max_tokens=1200", "model.max_genes=128"])
    monkeypatch.setattr(World, "gather_objects", lambda self, value: [value])
    seen: Counter[int] = Counter()
    sizes = set()
    for rank in range(size):
        source = open_source(settings, shards)
        for step in source.steps(0, World(rank=rank, size=size)):
            if source.state_after(step.step)["epoch"]:
                break
            sizes.add(step.tokens.n_cells)
            # The limit is that of all processes together, as the number of cells is.
            assert step.tokens.n_cells * (int(step.tokens.lengths.max()) + 1) <= 1200 // size
            seen.update(step.terms.tolist())
    assert seen == cells_of_terms(shards) and len(sizes) > 1


def cells_of_terms(shards: TokenCorpus) -> Counter[int]:
    found: Counter[int] = Counter()
    for term, _, n in shards.manifest.pairs:
        found[term] += n
    return found


def test_progress_counts_the_cells_that_were_read(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[int] = []
    build = Collator.build

    def build_and_count(self: Collator, cells: StepCells, world: World) -> StepBatch:
        read.append(cells.tokens.n_cells)
        return build(self, cells, world)

    monkeypatch.setattr(Collator, "build", build_and_count)
    seconds = count(step=0.5)  # every look at the clock is half a second after the one before
    monkeypatch.setattr("pretrain.run.callbacks.time.monotonic", lambda: next(seconds))
    train(read_recipe(recipe, ["shards.max_tokens=490", "validation.files=[]"]))
    lines = [each for each in capsys.readouterr().err.splitlines() if each.startswith("step ")]
    assert len(lines) == len(read) == 8 and len(set(read)) > 1
    for number, line in enumerate(lines, 1):
        assert f"; {sum(read[:number]) / (number / 2):.0f} cells/s, " in line


def test_terms_and_aspects_are_those_of_the_cells(recipe: Path, shards: TokenCorpus) -> None:
    source = open_source(read_recipe(recipe), shards)
    types = source.types.types
    assert types.term_ids == tuple(sorted(TERMS))
    assert types.aspects == (("UBERON:0002048", "", ""),)
    assert types.pairs == ((0, 0), (1, 0), (2, 0))
    names = shards.manifest.categories["term"]
    for batch, step in zip(source._stream(World()), source.steps(0, World()), strict=False):
        wanted = [names[term] for term in batch.cells.columns["term"]]
        assert [types.term_ids[term] for term in step.terms] == wanted
        if batch.after.epoch:
            break


def test_genes_are_left_out_as_asked_and_measured_says_so() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([100, 60, 30])
    cells = PackedCells(
        tokens=np.concatenate([rng.permutation(200)[:n] + 2 for n in lengths]).astype(np.uint16),
        offsets=np.append(0, np.cumsum(lengths)),
        columns={},
    )
    subsets = np.zeros((1, 200), bool)
    subsets[0, :100] = True

    def varied(**changes: Any) -> tuple[PackedCells, np.ndarray]:
        settings = Augmentation(**{"gene_dropout": 0, "subset": 0, **changes})
        measured = np.ones((3, 200), bool)
        made = augment(cells, measured, settings, subsets, np.random.default_rng(1))
        return made, measured

    whole, measured = varied()
    np.testing.assert_array_equal(whole.tokens, cells.tokens)
    assert measured.all()
    narrowed, measured = varied(subset=1)
    for row in range(3):
        inside = cells.cell(row)[cells.cell(row) < 102]
        # Of the last cell too few genes would be left.
        wanted = inside if len(inside) >= 20 else cells.cell(row)
        np.testing.assert_array_equal(narrowed.cell(row), wanted)
        assert measured[row].sum() == (100 if len(inside) >= 20 else 200)
    dropped, measured = varied(gene_dropout=0.9)
    assert measured.all() and 0 < len(dropped.tokens) < len(cells.tokens)
    for row in range(3):
        order = [cells.cell(row).tolist().index(token) for token in dropped.cell(row)]
        assert order == sorted(order)


def test_types_express_what_ranks_high_in_their_cells(shards: TokenCorpus) -> None:
    types = shard_types(shards, Ontology.bundled())
    means = shard_type_means(shards, types, n_cells=1000)
    term = types.types.term_ids.index(TERMS[0])
    high = means.values[term]
    cells = [
        shards.shard(number).cell(row)
        for number in range(len(shards.manifest.shards))
        for row in range(shards.manifest.shards[number].n_cells)
        if types.term[shards.shard(number).columns["term"][row]] == term
    ]
    gene = int(np.argmax(high))
    scores = [
        1 - cell.tolist().index(gene + 2) / len(cell) if gene + 2 in cell else 0.0 for cell in cells
    ]
    n_measured = len(cells) if means.measured[:, gene].all() and shards.measured[1, gene] else None
    if n_measured:
        assert high[gene] == pytest.approx(np.mean(scores), rel=1e-5)
    assert means.ensembl_ids == shards.vocabulary.ensembl_ids
    assert gene_variability(means).shape == (shards.vocabulary.n_genes,)


def test_a_dry_run_looks_at_shards(recipe: Path, shards: TokenCorpus) -> None:
    planned = plan(read_recipe(recipe))
    file = planned.files[0]
    assert (file.role, file.n_rows, file.n_kept, file.n_terms) == ("shards", 120, 120, 3)
    assert (planned.n_terms, planned.n_studies) == (3, 2)
    held_out = plan(read_recipe(recipe, ["holdout.share=0.34"]))
    assert held_out.n_terms == 2 and len(held_out.held_out) == 2
    assert held_out.files[0].n_kept in (79, 80, 81)  # a third of the cells each


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augmentation.thin=0.5"], "augmentation.thin needs counts, but shards hold ranks"),
        (["augmentation.overdispersion=1"], "augmentation.overdispersion needs counts"),
        (["linear_teacher={steps: 5}"], "linear_teacher needs counts"),
        (["sources=[{files: [a.h5ad]}]"], "needs either sources .* got both"),
        (["shards.folder="], "needs sources .* or shards.folder"),
        (
            ["shards.max_tokens=3", "compute.devices=4"],
            "max_tokens must be at least the 4 processes, got 3",
        ),
        (
            [
                *("shards.max_tokens=99", "optimisation.part=2", "compute.strategy=fsdp"),
                *("optimisation.average=0", "compute.devices=2"),
            ],
            "fsdp needs the same number of micro-batches .* set optimisation.part: 0",
        ),
        (["shards.folder=/nowhere"], "/nowhere has no complete corpus"),
        (["model.max_genes=256"], "model.max_genes is 256, but .* keeps 128 genes"),
        (["shards.fold=x"], "did you mean 'folder'"),
    ],
)
def test_what_shards_cannot_give_is_refused_in_a_line(
    recipe: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message) as error:
        plan(read_recipe(recipe, overrides))
    assert not any(each in str(error.value) for each in ("\n", "Value error", "got {"))


def test_a_recipe_that_says_nothing_of_counts_has_them_off(recipe: Path, tmp_path: Path) -> None:
    read = read_recipe(recipe)
    assert read.augmentation.thin == 0 and read.augmentation.overdispersion == 0
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(read.model_dump(mode="json")))
    assert read_recipe(again) == read


def test_a_corrupt_shard_stops_a_run_by_name(recipe: Path, shards: TokenCorpus) -> None:
    shard = shards.folder / shards.manifest.shards[1].name
    whole = shard.read_bytes()
    try:
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"{shard.name} is corrupt"):
            train(read_recipe(recipe))
    finally:
        shard.write_bytes(whole)
    assert not Path(read_recipe(recipe).output).exists()


def test_batches_may_be_limited_by_tokens(recipe: Path, shards: TokenCorpus) -> None:
    settings = read_recipe(recipe, ["shards.max_tokens=490", "shards.bucket_cells=40"])
    steps = list(islice(open_source(settings, shards).steps(0, World()), 10))
    assert {step.tokens.n_cells for step in steps} != {20}
    assert max(step.tokens.n_cells * 49 for step in steps) <= 490 + 49
