"""Compiled passes over counts, and over packed cells, against numpy."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from langcell.counts.check_kernel import INVALID, OUTSIDE, UNSORTED, check_rows
from langcell.tokens.packed_cells import PackedCells
from pretrain.corpus.value_histogram import N_BINS, ValueHistogram


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("odd", "is_linear", "is_count"),
    [
        (3.0, True, True),
        (0.0, True, True),
        (0.5, True, False),
        (-1.0, False, False),
        (np.nan, False, False),
        (np.inf, False, False),
    ],
)
def test_what_values_may_be(
    dtype: npt.DTypeLike, odd: float, is_linear: bool, is_count: bool
) -> None:
    for place in (0, 57, 99):
        counts = sparse.csr_matrix(np.arange(1, 101, dtype=dtype).reshape(10, 10))
        counts.data[place] = odd
        assert looked_over(counts, integers=False)[1] == (0 if is_linear else INVALID)
        assert looked_over(counts, integers=True)[1] == (0 if is_count else INVALID)
    assert looked_over(sparse.csr_matrix((3, 10), dtype=dtype), integers=True)[1] == 0


def looked_over(counts: sparse.csr_matrix, *, integers: bool) -> tuple[np.ndarray, int]:
    totals = np.full(counts.shape[0], np.nan)
    arrays = (counts.indptr, counts.indices, counts.data)
    return totals, check_rows(*arrays, counts.shape[1], integers, totals)


@pytest.mark.parametrize("integers", [True, False])
def test_totals_are_those_of_scipy_to_the_bit(integers: bool) -> None:
    rng = np.random.default_rng(0)
    counts = sparse.random(60, 300, 0.3, format="csr", random_state=rng, dtype=np.float32)
    counts.data *= np.float32(1e3)
    if integers:
        counts.data = np.rint(counts.data) * 2**16
    counts.data[counts.indptr[7] : counts.indptr[8]] = 0
    totals, faults = looked_over(counts, integers=integers)
    assert faults == 0
    np.testing.assert_array_equal(totals, counts @ np.ones(counts.shape[1]))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_columns_that_lie_outside_or_do_not_ascend_are_seen(dtype: npt.DTypeLike) -> None:
    values = np.ones(5)

    def faults(*columns: int, indptr: tuple[int, ...] = (0, 2, 2, 5)) -> int:
        arrays = (np.array(indptr, dtype), np.array(columns, dtype), values)
        return check_rows(*arrays, 9, True, np.empty(3))

    assert faults(7, 8, 0, 1, 2) == 0
    assert faults(7, 8, 0, 1, 1) == faults(8, 7, 0, 1, 2) == UNSORTED
    assert faults(7, 8, 0, 1, 9) == faults(-1, 8, 0, 1, 2) == OUTSIDE
    assert faults(9, 8, 0, 1, 2) == OUTSIDE | UNSORTED
    assert faults(7, 8, 0, 1, 2, indptr=(0, 3, 2, 5)) == OUTSIDE
    assert faults(7, 8, 0, 1, 2, indptr=(0, -1, 2, 5)) == OUTSIDE


def test_a_histogram_counts_what_numpy_counts_and_finds_the_middle() -> None:
    rng = np.random.default_rng(1)
    counts = sparse.random(400, 12, 0.6, format="csr", random_state=rng)
    counts.data = rng.integers(0, 40, len(counts.data)).astype(np.float64)
    totals = counts @ np.ones(12) + 1
    genes = np.array([0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, 9])
    histogram = ValueHistogram(11)
    histogram.add(counts.indptr, counts.indices, counts.data, totals, genes)
    medians = histogram.medians()
    shares = sparse.coo_matrix(counts)
    for column, gene in enumerate(genes):
        mine = (shares.col == column) & (shares.data > 0)
        values = shares.data[mine] / totals[shares.row[mine]] * 1e4
        if gene >= 0:
            assert histogram.n_values()[gene] == len(values)
            assert medians[gene] == pytest.approx(np.median(values), rel=0.05)
    assert np.isnan(medians[10]) and histogram.counts.shape == (11, N_BINS)


def test_cells_gathered_from_parts_are_those_of_the_parts_joined() -> None:
    rng = np.random.default_rng(2)
    parts = []
    for n_cells in (5, 0, 3):
        offsets = np.append(0, np.cumsum(rng.integers(0, 9, n_cells)))
        tokens = rng.integers(2, 900, offsets[-1]).astype(np.uint16)
        parts.append(
            PackedCells(
                tokens=tokens, offsets=offsets, columns={"row": rng.integers(0, 99, n_cells)}
            )
        )
    rows = np.array([7, 0, 3, 3, 5, 1])
    wanted, found = PackedCells.joined(parts), PackedCells.gathered(parts, rows)
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(found.cell(place), wanted.cell(row))
    np.testing.assert_array_equal(found.columns["row"], wanted.columns["row"][rows])
