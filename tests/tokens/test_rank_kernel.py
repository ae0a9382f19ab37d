"""The kernel where it is run: from several threads, after a fork, without a place for its cache."""

import subprocess
import sys

import numpy as np
import pytest

from langcell.tokens.rank_kernel import rank_cells

SCRIPT = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from langcell.tokens.rank_kernel import rank_cells

n_cells, n_genes = 600, 50
rng = np.random.default_rng(0)
counts = rng.integers(1, 9, n_cells * n_genes).astype(np.float32)
arguments = (
    np.arange(0, n_cells * n_genes + 1, n_genes), np.tile(np.arange(n_genes, dtype=np.int32), n_cells),
    counts, np.full(n_cells, 100.0), np.arange(n_genes) + 2, np.ones(n_genes),
)
run = lambda _: rank_cells(*arguments, max_genes=20, dtype=np.uint16)[0]
expected = run(0)
with ThreadPoolExecutor(4) as pool:
    assert all(np.array_equal(tokens, expected) for tokens in pool.map(run, range(20)))
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(run(0), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
print("the same")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_threads_and_forks_do_not_disturb_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


def test_it_compiles_where_no_cache_can_be_written() -> None:
    script = """
import sys
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []  # as on a machine where no folder can be written
import numpy as np
from langcell.tokens.rank_kernel import rank_cells
tokens, offsets = rank_cells(
    np.array([0, 2]), np.array([0, 1], np.int32), np.array([1.0, 3.0]), np.array([4.0]),
    np.array([2, 3]), np.array([1.0, 1.0]), max_genes=5, dtype=np.uint16,
)
print(tokens.tolist(), offsets.tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[3, 2] [0, 2]\n", done.stderr


@pytest.mark.parametrize("n_equal", [2, 48, 49, 5000])
def test_equal_keys_stand_in_the_order_of_their_tokens(n_equal: int) -> None:
    rng = np.random.default_rng(n_equal)
    tokens = rng.permutation(n_equal) + 2
    ranked, offsets = rank_cells(
        np.array([0, n_equal, n_equal]),
        np.arange(n_equal, dtype=np.int32),
        np.ones(n_equal, dtype=np.float32),
        np.array([float(n_equal), 0.0]),
        tokens,
        np.ones(n_equal),
        max_genes=10_000,
        dtype=np.int32,
    )
    assert ranked.tolist() == sorted(tokens)
    assert offsets.tolist() == [0, n_equal, n_equal]


@pytest.mark.parametrize(
    ("spread", "total"),
    [
        pytest.param(2.0**-8, 1e4, id="many keys share a code"),
        pytest.param(2.0**-40, 1e4, id="keys differ in their last bits"),
        pytest.param(2.0**90, 1e4, id="keys lie below all codes"),
        pytest.param(8.0, 1e-2, id="keys lie above all codes"),
    ],
)
@pytest.mark.parametrize("max_genes", [30, 5000])
def test_any_keys_are_ordered_as_by_a_plain_sort(
    spread: float, total: float, max_genes: int
) -> None:
    rng = np.random.default_rng(1)
    n_cells, n_genes = 5, 700
    counts = 1 + spread * rng.random(n_cells * n_genes) ** 30
    counts[rng.random(len(counts)) < 0.1] = 0
    tokens, medians = rng.permutation(n_genes) + 2, 1 + spread * rng.random(n_genes)
    tokens[::9] = -1
    ranked, offsets = rank_cells(
        np.arange(0, len(counts) + 1, n_genes),
        np.tile(np.arange(n_genes, dtype=np.int32), n_cells),
        counts,
        np.full(n_cells, total),
        tokens,
        medians,
        max_genes=max_genes,
        dtype=np.uint16,
    )
    for cell, row in enumerate(counts.reshape(n_cells, n_genes)):
        order = np.lexsort((tokens, -(row / total * 1e4 / medians)))
        wanted = [tokens[gene] for gene in order if tokens[gene] >= 0 and row[gene] > 0]
        found = ranked[offsets[cell] : offsets[cell + 1]]
        assert found.tolist() == wanted[:max_genes]
