"""Largest contrastive batch within a memory budget: `python -m benchmarks.speed.contrastive_memory`.

Forward and backward of a cell transformer contrasted with the texts of its batch, for the whole batch
at once, and in micro-batches with tiled logits (`optimisation.part`, `losses.tile`). The batch size
is doubled until a step needs more memory than the budget. Gradients of both are compared first; the
goal is a difference of at most 1e-5.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.process_speed import machine
from benchmarks.speed.step_process import measure
from langcell.model.langcell import LangCell
from langcell.nn.config import CellEncoderConfig, LangCellConfig
from langcell.nn.features import TextFeatures
from pretrain.recipe.config import Losses
from pretrain.steps.collator import StepBatch
from pretrain.steps.gradient import add_gradients
from pretrain.steps.objective import Objective
from pretrain.texts.text_tensors import TextTensors

_GENES, _TERMS, _TEXT_WIDTH = 128, 500, 384
_PART, _TILE = 32, 256
_GOAL = 1e-5  # maximum difference of gradients
_WAYS = {"plain": (0, 0), "parts and tiles": (_PART, _TILE)}


def make_objective(tile: int, seed: int) -> Objective:
    """Return the contrastive objective of a small transformer and texts of 500 unrelated types."""
    torch.manual_seed(seed)
    cell = CellEncoderConfig(
        vocab_size=5000,
        hidden_size=256,
        n_layers=3,
        n_heads=4,
        intermediate_size=512,
        max_positions=_GENES + 1,
        attention_dropout=0.0,
    )
    model = LangCell(LangCellConfig(cell=cell, max_genes=_GENES))
    eye, empty = torch.eye(_TERMS), torch.empty(0)
    texts = TextTensors(
        pooled=torch.randn(_TERMS, _TEXT_WIDTH),
        term=torch.arange(_TERMS),
        aspects=torch.full((_TERMS, 3), -1),
        templates=TextFeatures(
            input_ids=empty, attention_mask=None, states=empty, pooled=empty, features=empty
        ),
        template_rows=torch.arange(_TERMS),
        comparable=eye.bool(),
        labels=torch.randn(_TERMS, _TEXT_WIDTH),
        descriptions=torch.arange(_TERMS),
        targets=eye,
        label_comparable=eye.bool(),
        descendants=None,
    )
    weights = Losses(masked_gene=0, cell_cell=0, matching=0, tile=tile)
    return Objective(model=model, texts=texts, weights=weights)


def make_batch(n_cells: int, seed: int) -> StepBatch:
    """Return random cells of random types."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.randint(0, _TERMS, (n_cells,), generator=generator)
    empty = torch.empty(0, dtype=torch.int64)
    return StepBatch(
        step=0,
        input_ids=torch.randint(0, 5000, (n_cells, _GENES + 1), generator=generator),
        attention_mask=torch.ones(n_cells, _GENES + 1, dtype=torch.bool),
        masked_rows=empty,
        masked_columns=empty,
        masked_genes=empty,
        measured=torch.empty(0, dtype=torch.bool),
        terms=terms,
        aspects=torch.full((n_cells, 3), -1),
        texts=terms.unique(),
        labels=torch.arange(_TERMS),
    )


def prepare(way: str, n_cells: int, seed: int) -> Callable[[], Any]:
    """Return a function that runs one step."""
    part, tile = _WAYS[way]
    objective, batch = make_objective(tile, seed), make_batch(n_cells, seed)
    return lambda: add_gradients(objective, batch, part=part)


def largest_difference(n_cells: int, seed: int) -> float:
    """Return the largest difference of both gradients, relative to the largest gradient."""
    found: list[dict[str, Tensor]] = []
    for part, tile in _WAYS.values():
        objective = make_objective(tile, seed)
        objective = replace(objective, model=objective.model.eval())
        add_gradients(objective, make_batch(n_cells, seed), part=part)
        parameters = objective.model.named_parameters()
        found.append({name: each.grad for name, each in parameters if each.grad is not None})
    one, other = found
    largest = max(float(each.abs().max()) for each in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", type=int, default=2000, help="memory of a step in MB")
    parser.add_argument("--most", type=int, default=2048, help="maximum batch size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Print a row per batch size, and one JSON line."""
    arguments = parse_arguments()
    where = machine()
    difference = largest_difference(96, arguments.seed)
    print(
        f"{where['processor']}, {arguments.threads} threads, budget {arguments.budget:,} MB a step"
    )
    print(f"gradients of both ways differ by {difference:.1e} of the largest (goal: {_GOAL:.0e})")
    print(f"{'':<18}{'cells':>7}{'memory':>12}{'cells/s':>10}")
    largest = {}
    for way in _WAYS:
        n_cells = 64
        while n_cells <= arguments.most:
            cost = measure(
                prepare, way, n_cells, arguments.seed, threads=arguments.threads, repeats=1
            )
            print(
                f"{way:<18}{n_cells:>7,}{cost.peak_mb:>9,.0f} MB{n_cells / cost.seconds:>10.0f}",
                flush=True,
            )
            if cost.peak_mb > arguments.budget:
                break
            largest[way] = n_cells
            n_cells *= 2
    for way, n_cells in largest.items():
        more = " (or more)" if n_cells * 2 > arguments.most else ""
        print(f"largest batch, {way}: {n_cells:,}{more}")
    record = {
        "benchmark": "contrastive_memory",
        "machine": where,
        "budget_mb": arguments.budget,
        "largest": largest,
        "gradient_difference": difference,
        "gradient_goal": _GOAL,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
