"""Runs that train the text tower, and runs without texts: what they learn, write and refuse."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from langcell.checkpoints import text_towers as towers
from langcell.checkpoints.text_towers import text_encoder_config
from langcell.model.langcell import LangCell
from pretrain.cells.step_cells import StepCells
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions
from pretrain.parallel.gather import World
from pretrain.recipe.config import Recipe
from pretrain.recipe.recipe_file import find_recipe, read_recipe
from pretrain.run.dry_run import plan
from pretrain.run.recipe_model import count_parameters
from pretrain.run.training import train
from pretrain.run.warm_start import start_from
from pretrain.steps.collator import Collator, StepBatch
from tests.support.command_line import run_apart
from tests.support.corpus_files import make_study
from tests.support.pretraining_files import logged_losses, write_recipe
from tests.support.text_tower_files import write_tower

NO_TEXTS = ["losses={cell_cell: 1, masked_gene: 1, cell_text: 0, matching: 0, ontology: 0}"]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("text-training")
    make_study(coding_genes, 60, seed=0).write_h5ad(folder / "a.h5ad")
    make_study(coding_genes, 40, seed=2).write_h5ad(folder / "held_out.h5ad")
    options = BuildOptions(min_genes=20, max_genes=64)
    build_corpus(folder / "corpus", [str(folder / "a.h5ad")], options)
    write_tower(folder / "tower")
    return folder


@pytest.fixture
def recipe(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a recipe of four steps with a small text tower."""
    monkeypatch.setenv("LANGCELL_CACHE", str(shards / "cache"))
    return write_recipe(
        tmp_path / "recipe.yaml",
        corpus_root=str(shards),
        output=str(tmp_path / "run"),
        shards={"folder": str(shards / "corpus"), "block_cells": 6, "pool_cells": 40},
        balance={"study_share": 1.0},
        text={
            "tower": str(shards / "tower"),
            "candidates": "corpus",
            "max_tokens": 24,
            "train": "full",
            "lr": 1.0,
            "lora_rank": 2,
        },
        optimisation={"steps": 4, "batch_size": 12, "warmup": 0, "lr": 0.01},
        reference_cells=20,
    )


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Stop a run while the batch of a step is built."""
    build = Collator.build

    def build_and_stop(self: Collator, cells: StepCells, world: World) -> StepBatch:
        if cells.step == step:
            signal.raise_signal(signal.SIGTERM)
        return build(self, cells, world)

    monkeypatch.setattr(Collator, "build", build_and_stop)


RUNS = ("one", "two")
WAYS: list[list[str]] = [
    ["text.train=lora", "optimisation.part=5", "optimisation.average=0.5"],
    ["text.train=full", "model.matching=cross_attention", "losses.ontology=0"],
]


@pytest.mark.parametrize("words", WAYS, ids=["lora", "full"])
def test_a_tuned_tower_is_written_and_a_stopped_run_ends_with_the_same_weights(
    recipe: Path, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(read_recipe(recipe, [*words, f"output={straight}"]))
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(read_recipe(recipe, [*words, f"output={broken}"]))
    assert 0 < len(logged_losses(broken)) < 4
    train(read_recipe(recipe, [*words, f"output={broken}"]), resume=True)
    assert logged_losses(broken) == logged_losses(straight)
    one, other = (load_file(run / "last" / "model.safetensors") for run in (straight, broken))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not any("parametrizations" in key for key in one)
    # The checkpoint names the stock tower and holds the tuned one, which is what it reads.
    model = LangCell.from_pretrained(straight / "last")
    assert model.config.text.tower == str(shards / "tower") and not model.config.text.frozen
    stock = towers.load_tower(text_encoder_config(str(shards / "tower"))).state_dict()
    tuned = model.text_tower().state_dict()
    moved = [key for key in stock if (stock[key] - tuned[key]).abs().max() > 1e-3]
    assert "stack.blocks.0.feed_forward.output.weight" in moved
    assert ("embeddings.token.weight" in moved) == ("text.train=full" in words)
    assert any("cross_attention" in key for key in tuned) == (words == WAYS[1])
    labels = model.label_embeddings
    assert labels is not None
    np.testing.assert_allclose(labels.pooled, model.pool_texts(labels.texts), rtol=2e-3, atol=2e-3)


def test_two_processes_tune_the_tower_as_one_does(recipe: Path, tmp_path: Path) -> None:
    """Through the reducer of DDP, in parts, of which the last one reads texts alone."""
    same = [
        *("shards.folder=", "sources=[{files: [a.h5ad]}]", "columns.study=donor_id"),
        *("vocabulary={min_sources: 1, n_draws: 300}", "augmentation={keep_tokens: 1, mask: 0}"),
        *("model.kind=bag", "model.bag_size=16", "model.dropout=0", "losses.masked_gene=0"),
        *("losses.matching=0", "losses.cell_cell=0.5", "losses.second_views=12"),
        *("text.train=lora", "validation.files=[]", "compute.accelerator=cpu"),
    ]
    train(read_recipe(recipe, [*same, f"output={tmp_path / 'one'}"]))
    words = [*same, "compute.devices=2", "optimisation.part=2", f"output={tmp_path / 'two'}"]
    done = run_apart("pretrain", "--config", recipe, *words)
    assert "no validation files: no scores" in done.stderr
    losses = [[float(each) for each in logged_losses(tmp_path / run).values()] for run in RUNS]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-4)
    one, two = (load_file(tmp_path / run / "last/model.safetensors") for run in RUNS)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-2, atol=2e-4, msg=key)


def test_a_run_without_texts_needs_no_tower_and_says_what_it_cannot_measure(
    recipe: Path,
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError("the text tower was asked for")

    words = ["text.train=frozen", *NO_TEXTS]
    with monkeypatch.context() as patch:
        for name in ("load_tower", "load_tokenizer"):
            patch.setattr(f"langcell.model.langcell.{name}", refuse)
        best = train(read_recipe(recipe, [*words, "optimisation.steps=2"]))
    said = capsys.readouterr().err
    assert "no loss reads texts: no text tower is loaded" in said
    assert "without a loss that reads texts the model cannot predict" in said
    assert plan(read_recipe(recipe, words)).not_measured
    assert not (best / "labels.tsv").exists()
    model = LangCell.from_pretrained(best)
    cells = model.encode_cells(shards / "held_out.h5ad")
    np.testing.assert_allclose(np.linalg.norm(cells, axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="has no text tower: it can only embed cells"):
        model.encode_texts(["cell type: B cell. "])
    # The second stage goes on from it and says what it took.
    again = read_recipe(recipe, [f"model.start_from={best}", f"output={tmp_path / 'second'}"])
    train(
        again.model_copy(
            update={"optimisation": again.optimisation.model_copy(update={"steps": 1})}
        )
    )
    said = capsys.readouterr().err
    assert f"starting from {best}: copied" in said and "cell_encoder.stack" in said
    assert "new: " in said and "text_encoder.stack" in said


def test_a_tuned_tower_is_not_lost_by_starting_from_it(recipe: Path, tmp_path: Path) -> None:
    tuned = train(read_recipe(recipe, ["optimisation.steps=1"]))
    with pytest.raises(ValueError, match="it has a trained text tower, which text.train: frozen"):
        train(
            read_recipe(
                recipe,
                [f"model.start_from={tuned}", "text.train=frozen", f"output={tmp_path / 'again'}"],
            )
        )
    with pytest.raises(ValueError, match="has a trained text tower, but labels are encoded"):
        train(
            read_recipe(
                recipe,
                [
                    *(f"teachers=[{tuned}]", "losses.distillation=1", "text.train=frozen"),
                    f"output={tmp_path / 'student'}",
                ],
            )
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (NO_TEXTS, "text.train full needs a loss that reads texts"),
        (["losses.distillation=1", "teachers=[x]"], "distillation needs a frozen text tower"),
        (["text.train=frozen", "model.matching=cross_attention"], "adds weights to the text tower"),
        (["text.train=half"], "text.train"),
    ],
)
def test_what_does_not_go_together_is_refused(recipe: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_recipe(recipe, words)
    assert "\n" not in str(error.value)


def of_size(name: str, *words: str) -> Recipe:
    return read_recipe(find_recipe(Path(name)), ["shards.folder=x", *words])


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "vocabulary", "wanted"),
    [
        ("geneformer-12L", 512, 12, 25_427, 39_302_656),  # BertModel of transformers, no pooler
        ("104M", 768, 12, 20_275, 103_774_464),
    ],
)
def test_named_configs_have_the_published_numbers_of_weights(
    name: str, hidden: int, layers: int, vocabulary: int, wanted: int
) -> None:
    found = count_parameters(of_size(name), vocabulary - 3)["cell_encoder"]
    head = hidden * hidden + 3 * hidden + vocabulary
    token_types = 2 * hidden  # folded into the positions
    assert found == wanted + head - token_types
    sizes = of_size(name).model
    with torch.device("meta"):
        reference = BertModel(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=sizes.hidden_size,
                num_hidden_layers=sizes.n_layers,
                num_attention_heads=sizes.n_heads,
                intermediate_size=sizes.intermediate_size,
                max_position_embeddings=sizes.max_genes + 1,
            ),
            add_pooling_layer=False,
        )
    assert sum(each.numel() for each in reference.parameters()) == wanted
    assert (sizes.hidden_size, sizes.n_layers, sizes.hidden_act) == (hidden, layers, "relu")


def test_the_two_stages_of_the_paper() -> None:
    first, second = of_size("paper-stage1"), of_size("paper-stage2")
    assert not first.losses.read_texts and first.losses.masked_gene and first.losses.cell_cell
    assert set(count_parameters(first, 100)) >= {"cell_encoder"}
    weights = second.losses
    assert all((weights.masked_gene, weights.cell_cell, weights.cell_text, weights.matching))
    assert not weights.ontology and second.text.train == "full"
    assert second.model.start_from == f"{first.output}/best"
    assert (first.model.hidden_size, second.model.max_genes) == (512, 2047)


def test_a_start_from_other_sizes_or_activations_is_refused(tiny_model: Path) -> None:
    model = LangCell.from_pretrained(tiny_model)
    changes: list[dict[str, Any]] = [{"n_heads": 4}, {"hidden_act": "relu"}]
    for change in changes:
        config = replace(model.config, cell=replace(model.config.cell, **change))
        with pytest.raises(ValueError, match=f"model.{next(iter(change))} must be"):
            start_from(LangCell(config, model.vocabulary), str(tiny_model))
