"""Loading of shards: no cell lost or doubled, batches within their limits, exact resumption."""

import itertools
import pickle
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.token_corpus import TokenCorpus
from pretrain.cells.shard_batches import BatchRule, cut_batches
from pretrain.cells.shard_sampler import ShardSampler
from pretrain.cells.shard_stream import Position, ShardBatch, ShardLoader, ShardStream
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions
from pretrain.recipe.cell_config import Balance
from tests.support.corpus_files import TERMS, make_study

EVEN = Balance(by_type=False, study_share=1)
RULE = BatchRule(cells=8, tokens=0, bucket=32, pool=48)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, coding_genes: list[str]) -> TokenCorpus:
    """180 cells in four shards; a type of study 1 has only three cells."""
    folder = tmp_path_factory.mktemp("stream")
    make_study(coding_genes, 120, seed=0).write_h5ad(folder / "a.h5ad")
    few = make_study(coding_genes, 60, seed=1)
    few.obs.iloc[3::3, 0] = "CL:0000084"
    few.write_h5ad(folder / "b.h5ad")
    options = BuildOptions(min_genes=20, max_genes=64, shard_cells=45)
    build_corpus(folder / "corpus", [str(folder)], options)
    return TokenCorpus(folder / "corpus")


def sampler(corpus: TokenCorpus, balance: Balance = EVEN, **changes: Any) -> ShardSampler:
    return ShardSampler(corpus, balance, **{"seed": 5, "block_cells": 7, **changes})


def cells_of(batches: Iterable[ShardBatch]) -> Counter[int]:
    return Counter(cell for batch in batches for cell in batch.cells.columns["cell"].tolist())


def same(one: list[ShardBatch], other: list[ShardBatch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.cells.tokens, b.cells.tokens)
        and np.array_equal(a.cells.offsets, b.cells.offsets)
        and np.array_equal(a.cells.columns["cell"], b.cells.columns["cell"])
        and a.after == b.after
        for a, b in zip(one, other, strict=True)
    )


def expected_cells(of: ShardSampler, epoch: int) -> Counter[int]:
    found: Counter[int] = Counter()
    for number, shard in enumerate(of.corpus.manifest.shards):
        copies = of.copies(epoch, number, 0, shard.n_cells)
        first = int(of.corpus.starts[number])
        found.update({first + row: int(n) for row, n in enumerate(copies) if n})
    return found


class _Worker:
    """What a DataLoader tells a process that works for it."""

    def __init__(self, number: int, of: int) -> None:
        self.id, self.num_workers = number, of


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    world=st.integers(1, 7),
    workers=st.integers(1, 4),
    epoch=st.integers(0, 3),
    block_cells=st.integers(1, 60),
    pool=st.integers(1, 200),
    cells=st.integers(1, 40),
    tokens=st.sampled_from([0, 100, 700]),
    bucket=st.integers(0, 100),
    is_balanced=st.booleans(),
)
def test_ranks_and_workers_together_see_the_epoch_and_nothing_else(
    corpus: TokenCorpus,
    world: int,
    workers: int,
    epoch: int,
    block_cells: int,
    pool: int,
    cells: int,
    tokens: int,
    bucket: int,
    is_balanced: bool,
) -> None:
    balance = Balance(study_share=0.6) if is_balanced else EVEN
    of = sampler(corpus, balance, block_cells=block_cells)
    rule = BatchRule(cells=cells, tokens=tokens, bucket=bucket, pool=pool, max_genes=64)
    seen: Counter[int] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world):
            for number in range(workers):
                stream = ShardStream(of, rule, rank=rank, world=world, n_epochs=epoch + 1)
                stream.position = Position(epoch=epoch)
                patch.setattr(
                    "pretrain.cells.shard_stream.get_worker_info",
                    lambda number=number: _Worker(number, workers),
                )
                seen += cells_of(stream)
    assert seen == expected_cells(of, epoch)
    if not is_balanced:
        assert seen == Counter(range(len(corpus)))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stop=st.integers(0, 60),
    world=st.integers(1, 3),
    workers=st.integers(1, 3),
    tokens=st.sampled_from([0, 300]),
)
def test_what_follows_a_stop_is_what_would_have_followed(
    corpus: TokenCorpus, stop: int, world: int, workers: int, tokens: int
) -> None:
    of = sampler(corpus, Balance(study_share=0.6))
    rule = BatchRule(cells=8, tokens=tokens, bucket=32, pool=48, max_genes=64)
    for rank in range(world):
        whole = list(ShardStream(of, rule, rank=rank, world=world, n_epochs=3))
        stopped = ShardStream(of, rule, rank=rank, world=world, n_epochs=3)
        taken = list(itertools.islice(stopped, stop))
        resumed = ShardStream(of, rule, rank=rank, world=world, n_epochs=3)
        resumed.load_state_dict(stopped.state_dict() if taken else resumed.state_dict())
        # As many workers as the run had before, or another number of them.
        with pytest.MonkeyPatch.context() as patch:
            shares = []
            for number in range(workers):
                patch.setattr(
                    "pretrain.cells.shard_stream.get_worker_info",
                    lambda number=number: _Worker(number, workers),
                )
                again = ShardStream(of, rule, rank=rank, world=world, n_epochs=3)
                again.position = resumed.position
                shares.append(list(again))
        rest = [
            share[turn]
            for turn in range(max(map(len, shares)))
            for share in shares
            if turn < len(share)
        ]
        assert same(taken + rest, whole)


# Two workers are two wherever the test runs.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_real_workers_give_the_sequence_of_none_and_resume(corpus: TokenCorpus) -> None:
    of = sampler(corpus, Balance(study_share=0.6))
    whole = list(ShardStream(of, RULE, n_epochs=2))
    stream = ShardStream(of, RULE, n_epochs=2)
    taken = []
    for batch in ShardLoader(stream, n_workers=2):
        taken.append(batch)
        if len(taken) == 9:
            break
    state = stream.state_dict()  # of what was taken, however far the workers are
    resumed = ShardStream(of, RULE, n_epochs=2)
    resumed.load_state_dict(state)
    assert same(taken + list(ShardLoader(resumed)), whole)


def test_tokens_of_a_batch_are_those_of_its_cells(corpus: TokenCorpus) -> None:
    for batch in ShardStream(sampler(corpus), RULE, n_epochs=1):
        for row, cell in enumerate(batch.cells.columns["cell"]):
            shard = int(np.searchsorted(corpus.starts, cell, side="right")) - 1
            stored = corpus.shard(shard)
            place = int(cell - corpus.starts[shard])
            np.testing.assert_array_equal(batch.cells.cell(row), stored.cell(place))
            assert batch.cells.columns["row"][row] == stored.columns["row"][place]


def test_epochs_differ_and_seeds_settle_them(corpus: TokenCorpus) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = ShardStream(sampler(corpus, seed=seed), RULE, n_epochs=epoch + 1)
        stream.position = Position(epoch=epoch)
        return [cell for batch in stream for cell in batch.cells.columns["cell"].tolist()]

    assert order(5, 0) == order(5, 0)
    assert order(5, 0) != order(5, 1) and order(5, 0) != order(6, 0)
    # The pool shuffles: neighbours in a batch are not neighbours in a shard.
    assert np.mean(np.abs(np.diff(order(5, 0))) == 1) < 0.1


def test_types_and_studies_come_as_often_as_their_weights(corpus: TokenCorpus) -> None:
    of = sampler(corpus, Balance(study_share=1), max_repeats=50)
    names = corpus.manifest.categories
    seen: Counter[tuple[str, str]] = Counter()
    for epoch in range(60):
        for number, shard in enumerate(corpus.manifest.shards):
            copies = of.copies(epoch, number, 0, shard.n_cells)
            columns = corpus.shard(number).columns
            for term, study, n in zip(columns["term"], columns["study"], copies, strict=True):
                seen[names["term"][term], names["study"][study]] += int(n)
    total = sum(seen.values())
    assert total == pytest.approx(60 * len(corpus), rel=0.02)
    # Every type is in both studies: the same weight each, one half of it each study.
    by_type = Counter[str]()
    for (term, _), n in seen.items():
        by_type[term] += n
    for term in TERMS:
        n_studies = sum(1 for name, _ in seen if name == term)
        assert by_type[term] / total == pytest.approx(n_studies**0.5 / _roots(seen), abs=0.02)


def _roots(seen: Counter[tuple[str, str]]) -> float:
    return float(sum(n**0.5 for n in Counter(term for term, _ in seen).values()))


def test_a_rare_cell_is_not_repeated_without_end(corpus: TokenCorpus) -> None:
    of = sampler(corpus, Balance(study_share=1), max_repeats=2)
    assert max(expected_cells(of, 0).values()) <= 3  # at most one more by rounding
    left_out = sampler(corpus, Balance(study_share=1), without={"CL:0000236"})
    names = corpus.manifest.categories["term"]
    for batch in ShardStream(left_out, RULE, n_epochs=1):
        assert "CL:0000236" not in {names[term] for term in batch.cells.columns["term"]}
    with pytest.raises(ValueError, match="no cell of a training type"):
        sampler(corpus, without=set(names))


def test_batches_keep_to_their_limits() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 500, 1000)
    rule = BatchRule(cells=64, tokens=4000, bucket=500, max_genes=300)
    batches, left = cut_batches(lengths, np.arange(1000), rule, rng)
    assert sorted(np.concatenate(batches)) == list(range(1000)) and not len(left)
    padded = 0
    for batch in batches:
        widths = np.minimum(lengths[batch], 300) + 1
        assert len(batch) <= 64 and (len(batch) * widths.max() <= 4000 or len(batch) == 1)
        padded += len(batch) * widths.max()
    real = np.sum(np.minimum(lengths, 300) + 1)
    assert real / padded > 0.9  # buckets leave little padding
    plain, left = cut_batches(lengths, np.arange(1000), BatchRule(cells=64), rng)
    assert {len(batch) for batch in plain} == {64} and len(left) == 1000 % 64
    assert cut_batches(lengths, np.empty(0, np.int64), rule, rng)[0] == []
    one, _ = cut_batches(np.array([900]), np.array([0, 0]), BatchRule(cells=8, tokens=100), rng)
    assert [batch.tolist() for batch in one] == [[0], [0]]


def test_every_batch_is_full_across_pools_and_epochs(corpus: TokenCorpus) -> None:
    stream = ShardStream(sampler(corpus), RULE, n_epochs=3)
    sizes = [batch.cells.n_cells for batch in stream]
    assert sizes == [8] * (3 * 180 // 8) + [3 * 180 % 8]


def test_another_number_of_processes_begins_the_epoch_anew(corpus: TokenCorpus) -> None:
    stream = ShardStream(sampler(corpus), RULE, world=2, n_epochs=3)
    taken = list(itertools.islice(stream, 15))  # of 90 cells an epoch
    assert taken[-1].after.epoch == 1
    other = ShardStream(sampler(corpus), RULE, world=3, n_epochs=3)
    with pytest.warns(UserWarning, match="had 2 processes and has 3 now: epoch 1 restarts"):
        other.load_state_dict(stream.state_dict())
    assert other.position == Position(epoch=1)


def test_more_processes_than_blocks_are_refused(corpus: TokenCorpus) -> None:
    with pytest.raises(ValueError, match=r"blocks of 100 cells for 9 processes"):
        ShardStream(sampler(corpus, block_cells=100), RULE, world=9)
    with pytest.raises(ValueError, match="rank must be 0 to 1, got 2"):
        ShardStream(sampler(corpus), RULE, rank=2, world=2)


def test_a_corpus_travels_without_its_shards(corpus: TokenCorpus) -> None:
    corpus.shard(0)
    packed = pickle.dumps(corpus)
    assert len(packed) < 20_000
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.shard(0).tokens, corpus.shard(0).tokens)


def test_packed_cells_are_sliced_taken_and_joined() -> None:
    cells = PackedCells(
        tokens=np.array([4, 5, 6, 7, 8], np.uint16),
        offsets=np.array([0, 2, 2, 5]),
        columns={"term": np.array([1, 2, 3])},
    )
    middle = cells.slice(1, 3)
    assert middle.offsets.tolist() == [0, 0, 3] and middle.tokens.tolist() == [6, 7, 8]
    both = PackedCells.joined([middle, cells])
    assert both.n_cells == 5 and both.columns["term"].tolist() == [2, 3, 1, 2, 3]
    assert [both.cell(row).tolist() for row in range(5)] == [[], [6, 7, 8], [4, 5], [], [6, 7, 8]]
    many = cells.take(np.arange(10_000) % 3)
    assert many.cell(9_999).tolist() == [4, 5] and many.lengths.sum() == 16_668 - 1
