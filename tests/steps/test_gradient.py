"""The gradient of a step does not depend on how the batch is cut, tiled or shared out."""

import itertools
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from langcell.model.langcell import LangCell
from langcell.nn.losses import (
    multi_positive_contrastive_loss,
    partial_positive_loss,
    sigmoid_contrastive_loss,
)
from pretrain.recipe.config import Losses
from pretrain.steps.gradient import add_gradients
from pretrain.steps.match_pairs import match_pairs
from pretrain.steps.objective import Objective
from pretrain.steps.step_sizes import StepSizes

STEP = """
import sys
import numpy as np
import torch
from torch import distributed
from dataclasses import replace
from langcell.nn.features import TextFeatures
from langcell.model.langcell import LangCell
from pretrain.steps.collator import StepBatch
from pretrain.recipe.config import Losses
from pretrain.parallel.gather import World
from pretrain.steps.gradient import add_gradients
from pretrain.steps.objective import Objective
from pretrain.texts.step_texts import TextTokens
from pretrain.steps.teachers import Teachers
from pretrain.texts.text_tensors import TextTensors

N_TERMS, N_TEXTS, N_LABELS, HIDDEN, N_CELLS = 4, 6, 5, 32, 8


def make_texts(trained=False, subtree=False):
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
        descendants=torch.eye(N_LABELS).index_put((torch.tensor([1]), torch.tensor([0])), torch.ones(1))
        if subtree
        else None,
        tokens=make_tokens() if trained else None,
    )


def make_tokens():
    n = N_TEXTS + N_LABELS
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(9)[None, :] < torch.randint(3, 10, (n, 1), generator=generator)
    ids = torch.randint(5, 900, (n, 9), generator=generator)
    return TextTokens(input_ids=ids, attention_mask=mask.long(), n_texts=N_TEXTS)


def own_cells(world, cuts, n_second):
    # Cells of this process, so many of each that have a second view first, and their number.
    if not cuts:
        cuts = [len(range(N_CELLS)[World(rank=r, size=world.size).share(N_CELLS)])
                for r in range(world.size)]
    numbers = iter(range(sum(cuts)))
    shares = [[next(numbers) for _ in range(n)] for n in cuts]
    if world.size > 1:
        shares = [shares[world.rank]]
    twice = [cell for share in shares for cell in share[:n_second]]
    return twice + [cell for share in shares for cell in share[n_second:]], len(twice)


def make_batch(model, world, cuts=(), n_second=99):
    rng = np.random.default_rng(0)
    n_genes, n_all = model.vocabulary.n_genes, sum(cuts) or N_CELLS
    ids = torch.from_numpy(rng.integers(2, n_genes + 2, (2, n_all, 12)))
    ids[..., 0] = model.vocabulary.cls_id
    terms = torch.from_numpy(rng.integers(0, N_TERMS, n_all))
    mine, n_second = own_cells(world, cuts, n_second)
    own = torch.cat([ids[0, mine], ids[1, mine[:n_second]]])
    lengths = torch.tensor([12 - cell % 7 for cell in mine + mine[:n_second]])
    width = int(lengths.max())
    own, mask = own[:, :width], torch.arange(width) < lengths[:, None]
    n = len(mine)
    masked = [(row, 1 + place) for row, cell in enumerate(mine) for place in range(cell % 4)]
    rows, columns = torch.tensor(masked, dtype=torch.int64).reshape(-1, 2).T
    return StepBatch(
        step=3,
        input_ids=own,
        attention_mask=mask,
        masked_rows=rows,
        masked_columns=columns,
        masked_genes=own[rows, columns],
        measured=torch.ones(n, n_genes, dtype=torch.bool),
        terms=terms[mine],
        aspects=torch.full((n, 3), -1),
        texts=torch.tensor([0, 1, 2, 3, 5]),
        labels=torch.arange(N_LABELS),
        unmasked_ids=own[:n],
        unmasked_mask=mask[:n],
    )


def make_teachers(folder):
    model = LangCell.from_pretrained(folder).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    labels = torch.randn(N_LABELS, model.config.embedding_dim, generator=generator)
    return Teachers(
        models=(model,),
        labels=(torch.nn.functional.normalize(labels, dim=1),),
        trained=torch.arange(N_TERMS),
    )


def step(folder, weights, world, part=0, bias=-3.0, trained=False, cuts=(), n_second=99):
    model = LangCell.from_pretrained(folder).eval()
    bias = torch.nn.Parameter(torch.tensor(bias))
    objective = Objective(
        model=model,
        texts=make_texts(trained, weights.ontology_form == "subtree"),
        weights=weights,
        world=world,
        teachers=make_teachers(folder) if weights.distillation else None,
        bias=bias,
    )
    losses = add_gradients(objective, make_batch(model, world, cuts, n_second), part=part)
    found = {"bias": bias.grad}
    found.update({f"loss/{name}": each for name, each in losses.items()})
    found.update({name: each.grad for name, each in model.named_parameters()})
    found = {name: each.clone() for name, each in found.items() if each is not None}
    for each in found.values():
        if world.size > 1:
            distributed.all_reduce(each)
            each /= world.size
    return found
"""
namespace: dict = {}
exec(compile(STEP, "step", "exec"), namespace)  # the same words run in the other processes
step, make_batch, make_texts = (namespace[name] for name in ("step", "make_batch", "make_texts"))
N_TEXTS, N_LABELS, N_CELLS = (namespace[name] for name in ("N_TEXTS", "N_LABELS", "N_CELLS"))
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
# Pairs are drawn among the cells of a process: of three second views, or as many as it has.
MATCHING = {**dict.fromkeys(FEATURES, 0), "matching": 1.0, "matching_cells": 3}
TOGETHER = (
    *WAYS,
    ({"ontology_form": "subtree"}, False),
    ({"distillation": 1.0}, False),
    (MATCHING, False),
)
# Cells of each of two and four processes; one of the four has nothing masked.
UNEVEN = {2: (9, 2), 4: (4, 1, 5, 2)}


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


def test_half_precision_leaves_losses_of_features_alone(tiny_model):
    """Similarities times a temperature of 1/20 would be off by several percent."""
    model = LangCell.from_pretrained(tiny_model).eval()
    batch, weights = make_batch(model, World()), Losses(**FEATURES)
    objective = Objective(model=model, texts=make_texts(), weights=weights)
    sizes = StepSizes.of(batch, World())
    features = model.encode_cell(batch.input_ids, batch.attention_mask).features.detach()
    texts = objective.texts_of(batch, objective.text_rows(batch))
    expected = objective.of_features(batch, sizes, features, texts)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.of_features(batch, sizes, features, texts)
    assert {name: loss.item() for name, loss in found.items()} == {
        name: loss.item() for name, loss in expected.items()
    }


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


# Processes that begin with what the first has imported, which takes longer than all they do.
FORKED = """
import os, traceback
children = []
for rank in range({n}):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.environ["RANK"] = str(rank)
    try:
        exec({script!r})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
raise SystemExit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def run_processes(imports: str, script: str, n: int, cwd: Path) -> None:
    """Run a script in n processes that know of each other."""
    done = subprocess.run(
        [sys.executable, "-c", imports + FORKED.format(n=n, script=script)],
        cwd=cwd,
        env={
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(n),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module", params=[2, 4])
def processes(tiny_model, tmp_path_factory, request):
    """Return how many processes there were, their cells, and what each way of theirs gave."""
    n, folder = request.param, tmp_path_factory.mktemp("processes")
    script = f"""
distributed.init_process_group("gloo")
world = World.current()
assert world.size == {n}
found = []
for options, trained in {TOGETHER!r}:
    weights = Losses(**{{**{FEATURES!r}, **options}})
    for cuts in ((), {UNEVEN[n]!r}):
        for part in (0, 2):
            found.append(step({str(tiny_model)!r}, weights, world, part=part, trained=trained,
                              cuts=cuts, n_second=3))
if world.rank == 0:
    torch.save(found, "found.pt")
distributed.barrier()
distributed.destroy_process_group()
"""
    run_processes(STEP, script, n, folder)
    ways = itertools.product(TOGETHER, ((), UNEVEN[n]), (0, 2))
    return n, list(zip(ways, torch.load(folder / "found.pt", weights_only=True), strict=True))


def test_processes_together_have_the_gradient_of_one(tiny_model, processes):
    """With as many cells each or not, whole or in parts; means are over the cells of all."""
    n, found = processes
    cuts_of_equals = tuple([N_CELLS // n] * n)
    for ((options, trained), cuts, _), together in found:
        if options == MATCHING:
            continue
        weights = Losses(**{**FEATURES, **options})
        wanted = step(
            tiny_model,
            weights,
            World(),
            trained=trained,
            cuts=cuts or cuts_of_equals,
            n_second=3,
        )
        assert together.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(
                together[name], wanted[name], rtol=1e-4, atol=1e-5, msg=f"{options} {cuts} {name}"
            )


def test_matching_is_a_mean_over_the_pairs_of_all_processes(tiny_model, processes):
    n, found = processes
    for ((options, _), cuts, _), together in found:
        if options != MATCHING:
            continue
        model = LangCell.from_pretrained(tiny_model).eval()
        total, n_pairs = torch.zeros(()), []
        for rank in range(n):
            batch = make_batch(model, World(rank=rank, size=n), cuts, 3)
            loss, n_own = match_pairs(
                model,
                make_texts(),
                batch,
                model.encode_cell(batch.input_ids, batch.attention_mask),
                first=0,
                n_wanted=MATCHING["matching_cells"],
                generator=torch.Generator().manual_seed(batch.step * n + rank),
            )
            total = total + loss * n_own
            n_pairs.append(n_own)
        assert not cuts or len(set(n_pairs)) > 1
        wanted = total / sum(n_pairs)
        wanted.backward()
        assert together["loss/matching"].item() == pytest.approx(wanted.item(), rel=1e-5)
        for name, each in model.named_parameters():
            if each.grad is not None:
                torch.testing.assert_close(together[name], each.grad, rtol=1e-4, atol=1e-5)


def test_rows_of_unequal_processes_are_gathered_in_order_and_counted(tmp_path):
    """Processes without a row among them; each row gets what all make of it."""
    imports = """
import torch
from torch import distributed
from pretrain.parallel.gather import World
from pretrain.steps.throughput import Throughput
"""
    script = """
distributed.init_process_group("gloo")
world = World.current()
sizes = (2, 0, 3)
own = (torch.arange(sizes[world.rank]) + 10.0 * world.rank)[:, None].requires_grad_()
everyone = world.gather(own, sizes)
((world.rank + 1) * everyone * torch.arange(1.0, 6.0)[:, None]).sum().backward()
read = Throughput(tokens=10**9 * world.rank, pairs=3, cells=sizes[world.rank])
read = read.of_all(world, torch.device("cpu"))
found = {"rows": everyone.detach(), "gradient": own.grad, "cells": read.cells}
torch.save({**found, "tokens": read.tokens}, f"{world.rank}.pt")
distributed.destroy_process_group()
"""
    run_processes(imports, script, 3, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    for each in found:
        assert each["rows"][:, 0].tolist() == [0, 1, 20, 21, 22]
        assert (each["cells"], each["tokens"]) == (5, 3 * 10**9)
    # Process r weighs place i with (r + 1) * (i + 1): 6 times the place in all.
    assert [each["gradient"][:, 0].tolist() for each in found] == [[6, 12], [], [18, 24, 30]]


def test_a_world_shares_everything_out_once():
    for size in range(1, 7):
        for n in range(20):
            shares = [range(n)[World(rank=rank, size=size).share(n)] for rank in range(size)]
            assert [each for share in shares for each in share] == list(range(n))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
