"""What a training step costs: `python -m benchmarks.train_step`.

Forward and backward of the paper's encoders (12 layers of 512 for cells of up to 2,048 genes, 12
layers of 768 for texts), random weights, cells of several lengths. Cells: BERT of transformers on
padded rows, ours on padded rows, ours without padding, and that with activations computed again.
Texts: one a cell against the distinct ones of the batch, repeated as descriptions of cell types
are. Each row is a process of its own; memory is what the step adds to it. The peak of a GPU is its
maker's figure, that of a CPU a product of matrices measured here; on a CPU seconds are those of the
processors, which other work on the machine does not slow as much. The goal on a GPU is 45 % of the
peak in bf16 and three times the cells of transformers in a second.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from benchmarks.process_speed import machine
from benchmarks.step_process import Cost, measure
from langcell.bert import BertStack
from langcell.cell_encoder import CellEncoder
from langcell.config import CellEncoderConfig, TextEncoderConfig
from langcell.text_encoder import TextEncoder
from pretrain.flops import flops_per_token, peak_flops

CELL = CellEncoderConfig(
    vocab_size=25_427,
    hidden_size=512,
    n_layers=12,
    n_heads=8,
    intermediate_size=1024,
    hidden_act="relu",
    max_positions=2048,
    dropout=0.02,
    attention_dropout=0.0,
)
TEXT = TextEncoderConfig(
    hidden_size=768,
    n_layers=12,
    n_heads=12,
    intermediate_size=3072,
    frozen=False,
    sha256="",
    attention_dropout=0.0,
)
_TEXT_TOKENS = 64
_SIDE = 2048  # of the matrices whose product is a CPU's peak
_GOALS = {"of_peak": 0.45, "times_transformers": 3.0}  # on a GPU
_WAYS = ("transformers", "padded", "packed", "packed, recomputed")


def draw_lengths(n_cells: int, longest: int, seed: int) -> np.ndarray:
    """Return genes a cell as in published atlases: log-normal, median 1,100, cut at `longest`."""
    drawn = np.random.default_rng(seed).lognormal(np.log(1100), 0.6, n_cells)
    return np.clip(drawn, 50, longest).astype(int)


def prepare_cells(way: str, n_cells: int, device: str, seed: int) -> Callable[[], Any]:
    """Return one step of the cell encoder, forward and backward."""
    lengths = draw_lengths(n_cells, CELL.max_positions - 1, seed) + 1
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, CELL.vocab_size, (n_cells, int(lengths.max())), generator=generator)
    mask = (torch.arange(ids.shape[1])[None, :] < torch.from_numpy(lengths)[:, None]).to(device)
    ids = ids.to(device)
    encoder: torch.nn.Module
    if way == "transformers":
        from transformers import BertConfig, BertModel

        encoder = BertModel(
            BertConfig(
                vocab_size=CELL.vocab_size,
                hidden_size=CELL.hidden_size,
                num_hidden_layers=CELL.n_layers,
                num_attention_heads=CELL.n_heads,
                intermediate_size=CELL.intermediate_size,
                hidden_act=CELL.hidden_act,
                max_position_embeddings=CELL.max_positions,
                hidden_dropout_prob=CELL.dropout,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
    else:
        encoder = CellEncoder(CELL)
        encoder.stack.pack = way.startswith("packed")
        encoder.stack.recompute = way.endswith("recomputed")
    torch.nn.Module.to(encoder, device)
    encoder.train()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            states = encoder(ids, mask)
            states = states if isinstance(states, torch.Tensor) else states.last_hidden_state
            loss = (states * mask[:, :, None]).float().square().mean()
        loss.backward()
        encoder.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def prepare_texts(way: str, n_cells: int, device: str, seed: int) -> Callable[[], Any]:
    """Return one step of the text encoder, forward and backward."""
    n_texts = n_cells if way == "each" else count_distinct(n_cells, seed)
    encoder = TextEncoder(TEXT).to(device).train()
    assert isinstance(encoder.stack, BertStack)
    encoder.stack.pack = True
    ids = torch.randint(0, TEXT.vocab_size, (n_texts, _TEXT_TOKENS), device=device)
    mask = torch.ones_like(ids)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = encoder(ids, mask).float().square().mean()
        loss.backward()
        encoder.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def count_distinct(n_cells: int, seed: int) -> int:
    """Return how many different texts a batch has: 1,000 texts by Zipf's law."""
    shares = 1 / np.arange(1, 1001)
    drawn = np.random.default_rng(seed).choice(1000, n_cells, p=shares / shares.sum())
    return len(np.unique(drawn))


def prepare_product() -> Callable[[], Any]:
    """Return a product of matrices, which a processor does as fast as it can do anything."""
    one, other = torch.randn(2, _SIDE, _SIDE)
    return lambda: one @ other


def device_peak(device: str, threads: int) -> float:
    """Return the peak of a device in FLOP/s, of a CPU's core as measured; 0 where unknown."""
    known = peak_flops(torch.device(device))
    if known or device != "cpu":
        return known
    return 2 * _SIDE**3 / measure(prepare_product, threads=threads, repeats=5).cpu_seconds


def spent(cost: Cost, device: str) -> float:
    """Return the seconds that count: on the clock with a GPU, else of processors."""
    return cost.cpu_seconds if device == "cpu" else cost.seconds


def print_cells(
    costs: dict[str, Cost], lengths: np.ndarray, device: str, peak: float
) -> dict[str, float]:
    """Print a row a way of encoding cells; return the share of the peak that each reaches."""
    n_tokens, shares = int(lengths.sum()), {}
    print(f"\ncells: {len(lengths)} of {n_tokens / len(lengths):,.0f} tokens on average")
    unit = "CPU-s" if device == "cpu" else "s"
    heads = f"{'cells/' + unit:>14}{'tokens/' + unit:>14}"
    print(f"{'':<22}{heads}{'memory':>11}{'of peak':>9}{'times':>8}")
    first = spent(costs[_WAYS[0]], device)
    for way, cost in costs.items():
        seconds = spent(cost, device)
        done = flops_per_token(CELL, float(lengths.mean())) * n_tokens / seconds
        shares[way] = done / peak if peak else float("nan")
        print(
            f"{way:<22}{len(lengths) / seconds:>14.2f}{n_tokens / seconds:>14,.0f}"
            f"{cost.peak_mb:>8,.0f} MB{shares[way]:>9.0%}{first / seconds:>8.2f}"
        )
    return shares


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cells", type=int, help="of a batch; default 2 on a CPU, 64 on CUDA")
    parser.add_argument("--text-cells", type=int, help="of a batch of texts; default 16, 1,024")
    parser.add_argument("--repeats", type=int, help="default 1 on a CPU, 5 on CUDA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Print two tables, and one JSON line."""
    arguments = parse_arguments()
    is_gpu = arguments.device == "cuda"
    n_cells = arguments.cells or (64 if is_gpu else 2)
    n_texts = arguments.text_cells or (1024 if is_gpu else 16)
    how = {"threads": arguments.threads, "repeats": arguments.repeats or (5 if is_gpu else 1)}
    where = machine()
    print(
        torch.cuda.get_device_name()
        if is_gpu
        else f"{where['processor']}, {how['threads']} threads"
    )
    cells = {
        way: measure(prepare_cells, way, n_cells, arguments.device, arguments.seed, **how)
        for way in _WAYS
    }
    lengths = draw_lengths(n_cells, CELL.max_positions - 1, arguments.seed) + 1
    peak = device_peak(arguments.device, arguments.threads)
    shares = print_cells(cells, lengths, arguments.device, peak)
    print(
        f"peak {peak / 1e12:,.2f} TFLOP/s{' a core' * (not is_gpu)}; goal on a GPU: {_GOALS['of_peak']:.0%} of it packed, "
        f"{_GOALS['times_transformers']:.0f} times transformers"
    )
    texts = {
        way: measure(prepare_texts, way, n_texts, arguments.device, arguments.seed, **how)
        for way in ("each", "distinct")
    }
    distinct = count_distinct(n_texts, arguments.seed)
    print(f"\ntexts of {n_texts} cells, {distinct} of them distinct, {_TEXT_TOKENS} tokens each")
    for way, cost in texts.items():
        rate = n_texts / spent(cost, arguments.device)
        print(f"{way:<22}{rate:>14.2f} cells/{'s' if is_gpu else 'CPU-s'}{cost.peak_mb:>11,.0f} MB")
    record = {
        "benchmark": "train_step",
        "machine": where,
        "device": arguments.device,
        "cells": {way: asdict(cost) for way, cost in cells.items()},
        "of_peak": shares,
        "goals_on_a_gpu": _GOALS,
        "texts": {way: asdict(cost) for way, cost in texts.items()},
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
