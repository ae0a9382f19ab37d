"""The gradient of a step does not depend on how the batch is cut, tiled or shared out."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from langcell.losses import (
    multi_positive_contrastive_loss,
    partial_positive_loss,
    sigmoid_contrastive_loss,
)
from langcell.model import LangCell
from pretrain.config import Losses
from pretrain.gradient import add_gradients
from pretrain.objective import Objective

STEP = """
import sys
import numpy as np
import torch
from torch import distributed
from dataclasses import replace
from langcell.features import TextFeatures
from langcell.model import LangCell
from pretrain.collate import StepBatch
from pretrain.config import Losses
from pretrain.gather import World
from pretrain.gradient import add_gradients
from pretrain.objective import Objective
from pretrain.step_texts import TextTokens
from pretrain.text_tensors import TextTensors

N_TERMS, N_TEXTS, N_LABELS, HIDDEN, N_CELLS = 4, 6, 5, 32, 8


def make_texts(trained=False):
    # Tables of a frozen tower, or tokens for one that is trained.
    generator = torch.Generator().manual_seed(0)
    comparable = torch.eye(N_TERMS).bool()
    comparable[0, 1] = comparable[1, 0] = True
    empty = torch.empty(0)
    targets = torch.eye(N_TERMS)
    targets[1, :2] = torch.tensor([0.25, 0.75])
    return TextTensors(
        pooled=torch.randn(N_TEXTS, HIDDEN, generator=generator),
        term=torch.tensor([0, 1, 2, 3, 0, 1]),
        aspects=torch.full((N_TEXTS, 3), -1),
        templates=TextFeatures(
            input_ids=torch.zeros(N_TERMS, 7, dtype=torch.int64),
            attention_mask=torch.ones(N_TERMS, 7, dtype=torch.int64),
            states=torch.randn(N_TERMS, 7, HIDDEN, generator=generator),
            pooled=empty,
            features=empty,
        ),
        template_rows=torch.tensor([0, 1, 2, 3]),
        comparable=comparable,
        labels=torch.randn(N_LABELS, HIDDEN, generator=generator),
        descriptions=torch.arange(N_LABELS),
        targets=torch.nn.functional.pad(targets, (0, N_LABELS - N_TERMS)),
        label_comparable=torch.nn.functional.pad(comparable, (0, N_LABELS - N_TERMS)),
        below=None,
        tokens=make_tokens() if trained else None,
    )


def make_tokens():
    n = N_TEXTS + N_LABELS
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(9)[None, :] < torch.randint(3, 10, (n, 1), generator=generator)
    ids = torch.randint(5, 900, (n, 9), generator=generator)
    return TextTokens(input_ids=ids, attention_mask=mask.long(), n_texts=N_TEXTS)


def make_batch(model, world):
    rng = np.random.default_rng(0)
    n_genes = model.vocabulary.n_genes
    ids = torch.from_numpy(rng.integers(2, n_genes + 2, (2, N_CELLS, 12)))
    ids[..., 0] = model.vocabulary.cls_id
    terms = torch.from_numpy(rng.integers(0, N_TERMS, N_CELLS))
    mine = world.share(N_CELLS)
    own = ids[0, mine]
    n = len(own)
    return StepBatch(
        step=3,
        input_ids=torch.cat([own, ids[1, mine]]),
        attention_mask=torch.ones(2 * n, 12, dtype=torch.bool),
        masked_rows=torch.arange(n).repeat(2),
        masked_columns=torch.arange(1, 3).repeat_interleave(n),
        masked_genes=torch.cat([own[:, 1], own[:, 2]]),
        measured=torch.ones(n, n_genes, dtype=torch.bool),
        terms=terms[mine],
        aspects=torch.full((n, 3), -1),
        texts=torch.tensor([0, 1, 2, 3, 5]),
        labels=torch.arange(N_LABELS),
    )


def step(folder, weights, world, part=0, bias=-3.0, trained=False):
    model = LangCell.from_pretrained(folder).eval()
    bias = torch.nn.Parameter(torch.tensor(bias))
    objective = Objective(
        model=model, texts=make_texts(trained), weights=weights, world=world, bias=bias
    )
    add_gradients(objective, make_batch(model, world), part=part)
    found = {"bias": bias.grad}
    found.update({name: each.grad for name, each in model.named_parameters()})
    found = {name: each for name, each in found.items() if each is not None}
    for each in found.values():
        if world.size > 1:
            distributed.all_reduce(each)
            each /= world.size
    return found
"""
namespace: dict = {}
exec(compile(STEP, "step", "exec"), namespace)  # the same words run in the other processes
step, make_batch, make_texts = (namespace[name] for name in ("step", "make_batch", "make_texts"))
N_TEXTS, N_LABELS = namespace["N_TEXTS"], namespace["N_LABELS"]
World = namespace["World"]

FEATURES = {"masked_gene": 1.0, "cell_cell": 1.0, "cell_text": 1.0, "ontology": 1.0, "matching": 0}
PARTS: tuple[dict, ...] = (
    {},
    {"contrast": "sigmoid"},
    {"tile": 3},
    {"contrast": "sigmoid", "tile": 3},
)
# With a frozen text tower, and with one that is trained.
WAYS = (*((each, False) for each in PARTS), (PARTS[0], True), (PARTS[3], True))


def random_pairs(n_cells=50, n_texts=20):
    generator = torch.Generator().manual_seed(0)
    cells, texts = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1)
        for n in (n_cells, n_texts)
    )
    drawn = torch.rand(n_cells, n_texts, generator=generator)
    return (
        cells.requires_grad_(),
        texts.requires_grad_(),
        drawn < 0.1,
        (drawn > 0.1) & (drawn < 0.3),
    )


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("tile", [1, 7, 50, 64])
def test_tiles_change_nothing(tile):
    cells, texts, positives, ignore = random_pairs()
    targets = positives / positives.sum(dim=1, keepdim=True).clamp(min=1)
    losses = [
        lambda t: multi_positive_contrastive_loss(cells, texts, positives, ignore, 9.0, tile=t),
        lambda t: sigmoid_contrastive_loss(cells, texts, positives, ignore, 9.0, -2.0, tile=t),
        lambda t: partial_positive_loss(cells, texts, targets, ignore, 9.0, tile=t),
    ]
    for loss in losses:
        whole, tiled = loss(0), loss(tile)
        assert tiled.item() == pytest.approx(whole.item(), rel=1e-5)
        for one, other in zip(
            gradients(whole, cells, texts), gradients(tiled, cells, texts), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_sigmoid_form_pair_by_pair():
    cells, texts, positives, ignore = random_pairs(6, 4)
    found = sigmoid_contrastive_loss(cells, texts, positives, ignore, 5.0, -1.5)
    total = 0.0
    for i in range(6):
        for j in range(4):
            logit = 5.0 * float(cells[i].detach() @ texts[j].detach()) - 1.5
            if positives[i, j]:
                total += np.log1p(np.exp(-logit))
            elif not ignore[i, j]:
                total += np.log1p(np.exp(logit))
    assert found.item() == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize(("options", "trained"), WAYS, ids=str)
@pytest.mark.parametrize("part", [1, 3, 8])
def test_parts_add_up_to_the_batch(tiny_model, options, trained, part):
    weights = Losses(**FEATURES, **options)
    whole = step(tiny_model, weights, World(), trained=trained)
    parts = step(tiny_model, weights, World(), part=part, trained=trained)
    assert any(name.startswith("text_encoder") for name in whole) == trained
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_trained_tower_has_the_losses_of_a_frozen_one_with_its_weights(tiny_model):
    """All texts encoded beforehand, against those of the step encoded in it."""
    model = LangCell.from_pretrained(tiny_model).eval()
    live = make_texts(trained=True)
    with torch.no_grad():
        encoded = live.tokens.encode(model, torch.arange(N_TEXTS + N_LABELS))
        templates = live.tokens.encode(model, live.template_rows)
    table = replace(
        live,
        tokens=None,
        pooled=encoded.pooled[:N_TEXTS],
        labels=encoded.pooled[N_TEXTS:],
        templates=templates,
    )
    batch, weights = make_batch(model, World()), Losses(**{**FEATURES, "matching": 1})
    assert len(batch.terms.unique()) == len(live.template_rows)  # the same negatives to draw from
    found = []
    for texts in (table, live):
        model.zero_grad()
        found.append(add_gradients(Objective(model=model, texts=texts, weights=weights), batch))
        own = model.text_encoder.stack.blocks[0].attention.output.weight.grad
        assert (own is not None and bool(own.abs().max() > 0)) == (texts is live)
    assert found[0].keys() == found[1].keys() == FEATURES.keys()
    for name, loss in found[0].items():
        assert found[1][name].item() == pytest.approx(loss.item(), rel=1e-5), name


def test_parts_see_the_same_dropout_and_report_the_same_losses(tiny_model):
    """The second pass over a part must be the first one again."""
    model = LangCell.from_pretrained(tiny_model).train()
    seen = []
    handle = model.cell_projection.register_forward_hook(
        lambda module, given, made: seen.append(made.detach().clone())
    )
    weights = Losses(**FEATURES)
    objective = Objective(model=model, texts=make_texts(), weights=weights)
    batch = make_batch(model, World())
    torch.manual_seed(0)
    losses = add_gradients(objective, batch, part=4)
    handle.remove()
    n_parts = len(seen) // 2
    assert n_parts == 3  # two of cells, one of second views
    for first, second in zip(seen[:n_parts], seen[n_parts:], strict=True):
        assert torch.equal(first, second)
    assert set(losses) == {"masked_gene", "cell_cell", "cell_text", "ontology"}
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("trained", [False, True])
def test_matching_in_parts_reads_the_second_views(tiny_model, trained):
    weights = Losses(masked_gene=0, cell_cell=0, cell_text=0, ontology=0, matching=1)
    whole = step(tiny_model, weights, World(), trained=trained)
    parts = step(tiny_model, weights, World(), part=4, trained=trained)
    assert any(name.startswith("text_encoder") for name in whole) == trained
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5, msg=name)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_processes(script: str, n: int, cwd: Path) -> None:
    """Run a script in n processes that know of each other."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(n),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=cwd,
            env={**shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    for process in started:
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err[-2000:]


@pytest.mark.parametrize("n", [2, 4])
def test_processes_together_have_the_gradient_of_one(tiny_model, tmp_path, n):
    script = (
        STEP
        + f"""
distributed.init_process_group("gloo")
world = World.here()
assert world.size == {n}
for number, (options, trained) in enumerate({WAYS!r}):
    weights = Losses(**{FEATURES!r}, **options)
    for part in (0, 1):
        found = step({str(tiny_model)!r}, weights, world, part=part, trained=trained)
        if world.rank == 0:
            torch.save(found, f"{{number}}-{{part}}.pt")
distributed.barrier()
distributed.destroy_process_group()
"""
    )
    run_processes(script, n, tmp_path)
    for number, (options, trained) in enumerate(WAYS):
        wanted = step(tiny_model, Losses(**FEATURES, **options), World(), trained=trained)
        for part in (0, 1):
            found = torch.load(tmp_path / f"{number}-{part}.pt", weights_only=True)
            assert found.keys() == wanted.keys()
            for name in wanted:
                torch.testing.assert_close(
                    found[name], wanted[name], rtol=1e-4, atol=1e-5, msg=f"{options} {name}"
                )


def test_a_world_shares_everything_out_once():
    for size in range(1, 7):
        for n in range(20):
            shares = [range(n)[World(rank=rank, size=size).share(n)] for rank in range(size)]
            assert [each for share in shares for each in share] == list(range(n))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
