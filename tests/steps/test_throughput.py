"""What a run counts of what it reads."""

from types import SimpleNamespace
from typing import cast

import torch

from pretrain.parallel.gather import World
from pretrain.steps.collator import StepBatch
from pretrain.steps.throughput import Throughput


def batch_of(*lengths: int) -> StepBatch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return cast(StepBatch, SimpleNamespace(attention_mask=mask, n_cells=len(lengths)))


def test_what_a_bag_alone_reads_costs_no_attention() -> None:
    read = Throughput().plus(batch_of(2, 7), 4).plus(batch_of(3), 4)
    assert read == Throughput(tokens=12, attended=2 + 4 + 3, pairs=4 + 16 + 9, cells=3)
    assert read.of_all(World(), torch.device("cpu")) == read
