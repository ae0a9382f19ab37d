"""Cost of a training step: `python -m benchmarks.speed.train_step`.

Forward and backward of the paper's encoders (12 layers of 512 for cells of up to 2,048 genes, 12
layers of 768 for texts), with random weights and cells of several lengths. First whole steps without
the optimiser, with masked genes, cell-cell and cell-text contrast and both towers trained: with
transformers on padded rows, and with langcell. Then the cell encoder alone: BERT of transformers on
padded rows, langcell on padded rows, packed, with compiled blocks, and with activation checkpointing.
Then texts: one per cell against the distinct texts of the batch. Each row is a process of its own;
memory is what the step adds, of the GPU if there is one, and a step of transformers that does not fit
is run with half the cells. The peak of a GPU is the vendor's number, that of a CPU a matrix product
measured here. On a CPU times are CPU times, which depend less on other load. The goal on a GPU is 45 %
of the bf16 peak and three times the cells per second of transformers.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.speed.process_speed import machine
from benchmarks.speed.step_batch import (
    CELL,
    TEXT,
    TEXT_TOKENS,
    SimulatedBatch,
    bert_config,
    draw_lengths,
    draw_types,
    prepare_ours,
    prepare_plain,
)
from benchmarks.speed.step_process import Cost, measure
from langcell.nn.cell_encoder import CellEncoder
from langcell.nn.text_encoder import TextEncoder
from pretrain.run.flops import flops_per_token, peak_flops

_SIDE = 2048  # size of the matrix product that measures a CPU's peak
_GOALS = {"of_peak": 0.45, "times_transformers": 3.0}  # on a GPU
_TABLES = ("whole", "encoder", "texts")
_WAYS = ("transformers", "padded", "packed", "packed, compiled", "packed, recomputed")


def prepare_cells(way: str, n_cells: int, device: str, seed: int) -> Callable[[], Any]:
    """Return one step of the cell encoder, forward and backward."""
    drawn = SimulatedBatch.draw(n_cells, seed, device)
    encoder: torch.nn.Module
    if way == "transformers":
        from transformers import BertModel

        encoder = BertModel(bert_config(CELL), add_pooling_layer=False)
    else:
        encoder = CellEncoder(CELL)
        encoder.stack.pack = way.startswith("packed")
        encoder.stack.recompute = way.endswith("recomputed")
        if way.endswith("compiled"):
            encoder.stack.compile_blocks()
    torch.nn.Module.to(encoder, device)
    encoder.train()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            states = encoder(drawn.ids, drawn.mask)
            states = states if isinstance(states, torch.Tensor) else states.last_hidden_state
            loss = (states * drawn.mask[:, :, None]).float().square().mean()
        loss.backward()
        encoder.zero_grad()

    return step


def prepare_texts(way: str, n_cells: int, device: str, seed: int) -> Callable[[], Any]:
    """Return one step of the text encoder, forward and backward."""
    n_texts = n_cells if way == "each" else count_distinct(n_cells, seed)
    encoder = TextEncoder(TEXT).to(device).train()
    encoder.stack.pack = True
    ids = torch.randint(0, TEXT.vocab_size, (n_texts, TEXT_TOKENS), device=device)
    mask = torch.ones_like(ids)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = encoder(ids, mask).float().square().mean()
        loss.backward()
        encoder.zero_grad()

    return step


def count_distinct(n_cells: int, seed: int) -> int:
    """Return the number of distinct texts of a batch."""
    return len(np.unique(draw_types(n_cells, seed)))


def prepare_product() -> Callable[[], Any]:
    """Return a matrix product, which reaches the peak FLOP/s of a CPU."""
    one, other = torch.randn(2, _SIDE, _SIDE)
    return lambda: one @ other


def device_peak(device: str, threads: int) -> float:
    """Return the peak FLOP/s of a device, measured for a CPU core; 0 if unknown."""
    known = peak_flops(torch.device(device))
    if known or device != "cpu":
        return known
    return 2 * _SIDE**3 / measure(prepare_product, threads=threads, repeats=5).cpu_seconds


def cell_flops(lengths: np.ndarray) -> float:
    """Return the FLOP of the cell encoder in a step, for cells of given lengths."""
    width = float(np.square(lengths).sum() / lengths.sum())
    return flops_per_token(CELL, width) * float(lengths.sum())


def whole_flops(lengths: np.ndarray, seed: int) -> float:
    """Return the FLOP of a whole step.

    It encodes two views of each cell and each text once, with gene logits at masked positions.
    """
    n_masked = int(SimulatedBatch.draw(len(lengths), seed, "cpu").masked.sum())
    head = 6.0 * n_masked * CELL.hidden_size * (CELL.hidden_size + CELL.vocab_size)
    n_text_tokens = count_distinct(len(lengths), seed) * TEXT_TOKENS
    return 2 * cell_flops(lengths) + head + flops_per_token(TEXT, TEXT_TOKENS) * n_text_tokens


def spent(cost: Cost, device: str) -> float:
    """Return the time to report: wall time on a GPU, CPU time on a CPU."""
    return cost.cpu_seconds if device == "cpu" else cost.seconds


def print_costs(
    title: str,
    costs: dict[str, Cost],
    lengths: dict[str, np.ndarray],
    flops: dict[str, float],
    device: str,
    peak: float,
    *,
    views: int = 1,
) -> dict[str, dict[str, float]]:
    """Print a row per method; return cells per second, share of the peak and speed-up of each.

    `views` is the number of times a cell is encoded, for the tokens per second.
    """
    print(f"\n{title}")
    unit = "CPU-s" if device == "cpu" else "s"
    heads = f"{'cells/' + unit:>14}{'tokens/' + unit:>14}"
    print(f"{'':<22}{heads}{'memory':>11}{'of peak':>9}{'times':>8}")
    found: dict[str, dict[str, float]] = {}
    for way, cost in costs.items():
        seconds, own = spent(cost, device), lengths[way]
        rate = len(own) / seconds
        first = next(iter(found.values()), {"cells": rate})["cells"]
        share = flops[way] / seconds / peak if peak else float("nan")
        found[way] = {"cells": rate, "of_peak": share, "times": rate / first}
        print(
            f"{way:<22}{rate:>14.2f}{views * own.sum() / seconds:>14,.0f}"
            f"{cost.peak_mb:>8,.0f} MB{share:>9.1%}{rate / first:>8.2f}",
            flush=True,
        )
    return found


def measure_fitting(n_cells: int, device: str, seed: int, **how: int) -> tuple[int, Cost]:
    """Measure the step of transformers with up to `n_cells` cells, halved until they fit."""
    while True:
        try:
            return n_cells, measure(prepare_plain, n_cells, device, seed, **how)
        except torch.OutOfMemoryError:
            n_cells //= 2
            print(f"transformers runs out of memory; with {n_cells} cells", flush=True)


def measure_whole(
    n_cells: int, device: str, seed: int, peak: float, **how: int
) -> dict[str, dict[str, float]]:
    """Measure and print whole steps; return the results."""
    fitting, plain = measure_fitting(n_cells, device, seed, **how)
    costs = {"transformers": plain}
    for compiled in (False, True) if device == "cuda" else (False,):
        way = "packed, compiled" if compiled else "packed"
        costs[way] = measure(prepare_ours, n_cells, device, seed, compiled, **how)
    lengths = {
        way: draw_lengths(
            fitting if way == "transformers" else n_cells, CELL.max_positions - 1, seed
        )
        + 1
        for way in costs
    }
    flops = {way: whole_flops(own, seed) for way, own in lengths.items()}
    title = (
        f"whole steps: {n_cells} cells, each read twice ({fitting} at once by transformers), their "
        f"texts ({count_distinct(n_cells, seed)} distinct), masked genes"
    )
    return print_costs(title, costs, lengths, flops, device, peak, views=2)


def measure_encoder(
    n_cells: int, device: str, seed: int, peak: float, **how: int
) -> dict[str, dict[str, float]]:
    """Measure and print the cell encoder; return the results."""
    ways = _WAYS if device == "cuda" else tuple(way for way in _WAYS if way != "packed, compiled")
    lengths = draw_lengths(n_cells, CELL.max_positions - 1, seed) + 1
    costs = {way: measure(prepare_cells, way, n_cells, device, seed, **how) for way in ways}
    return print_costs(
        f"cell encoder: {n_cells} cells of {lengths.mean():,.0f} tokens on average",
        costs,
        dict.fromkeys(costs, lengths),
        dict.fromkeys(costs, cell_flops(lengths)),
        device,
        peak,
    )


def measure_texts(n_cells: int, device: str, seed: int, **how: int) -> dict[str, float]:
    """Measure and print the text encoder; return cells per second by method."""
    distinct = count_distinct(n_cells, seed)
    print(f"\ntexts of {n_cells} cells, {distinct} of them distinct, {TEXT_TOKENS} tokens each")
    rates = {}
    for way in ("each", "distinct"):
        cost = measure(prepare_texts, way, n_cells, device, seed, **how)
        rates[way] = n_cells / spent(cost, device)
        unit = "CPU-s" if device == "cpu" else "s"
        print(f"{way:<22}{rates[way]:>14.2f} cells/{unit}{cost.peak_mb:>11,.0f} MB", flush=True)
    return rates


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tables", nargs="+", default=_TABLES, choices=_TABLES, help="default all")
    parser.add_argument(
        "--cells", type=int, help="cells per batch; default 2 on a CPU, 128 on CUDA"
    )
    parser.add_argument(
        "--text-cells", type=int, help="cells per batch of texts; default 16, 1,024"
    )
    parser.add_argument("--repeats", type=int, help="repeats; default 1 on a CPU, 8 on CUDA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Print three tables, and one JSON line."""
    arguments = parse_arguments()
    device, seed = arguments.device, arguments.seed
    is_gpu = device == "cuda"
    n_cells = arguments.cells or (128 if is_gpu else 2)
    n_texts = arguments.text_cells or (1024 if is_gpu else 16)
    how = {"threads": arguments.threads, "repeats": arguments.repeats or (8 if is_gpu else 1)}
    where = machine()
    name = torch.cuda.get_device_name() if is_gpu else where["processor"]
    peak = device_peak(device, arguments.threads)
    print(
        f"{name}{'' if is_gpu else ', {threads} threads'.format(**how)}, torch {torch.__version__}"
    )
    print(
        f"peak {peak / 1e12:,.2f} TFLOP/s{' a core' * (not is_gpu)}; goals on a GPU: "
        f"{_GOALS['of_peak']:.0%} of it packed, {_GOALS['times_transformers']:.0f} times transformers"
    )
    record: dict[str, Any] = {"benchmark": "train_step", "machine": where, "device": name}
    if "whole" in arguments.tables:
        record["whole"] = measure_whole(max(1, n_cells // 2), device, seed, peak, **how)
    if "encoder" in arguments.tables:
        record["encoder"] = measure_encoder(n_cells, device, seed, peak, **how)
    if "texts" in arguments.tables:
        record["texts"] = measure_texts(n_texts, device, seed, **how)
    print(json.dumps(record | {"goals_on_a_gpu": _GOALS}))


if __name__ == "__main__":
    main()
