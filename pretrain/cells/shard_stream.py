"""Resumable stream of batches from shards, read in blocks and shuffled in a pool."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from langcell.tokens.packed_cells import PackedCells
from pretrain.cells.shard_batches import BatchRule, cut_batches
from pretrain.cells.shard_sampler import ShardSampler

# Second number of the seed sequence of a pool.
_POOL = 21
# Rows of pools that form a batch.
_Parts = list[tuple[PackedCells, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Position of the stream of one process.

    Attributes
    ----------
    epoch, pool
        Epoch and pool of the next batch, or of the last one if it ended its pool.
    skip
        Cells of the pool that completed a batch of the previous pool.
    batch
        Finished batches of the pool, without that one.
    """

    epoch: int = 0
    pool: int = 0
    skip: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardBatch:
    """Cells of one step.

    Attributes
    ----------
    cells
        Tokens, and the columns of a shard, with the index of the cell in the corpus as `cell`.
    after
        Position of the stream after the batch.
    """

    cells: PackedCells
    after: Position


class ShardStream(IterableDataset[ShardBatch]):
    """Iterable dataset of the batches of one process, epoch after epoch.

    Blocks are divided among the processes of a run, so that together they read each cell of an
    epoch as often as the sampler draws it. The workers of a `DataLoader` divide the batches; the
    sequence does not depend on their number.

    Parameters
    ----------
    sampler
        Sampler of the epochs.
    rule
        Batching settings.
    rank, world
        Rank of this process, and number of processes.
    n_epochs
        Epochs until the stream ends; None for an endless stream, so that all processes make the
        same number of steps.

    Raises
    ------
    ValueError
        If there are more processes than blocks.
    """

    def __init__(
        self,
        sampler: ShardSampler,
        rule: BatchRule,
        *,
        rank: int = 0,
        world: int = 1,
        n_epochs: int | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank must be 0 to {world - 1}, got {rank}")
        if n_epochs is None and world > sampler.n_blocks:
            raise ValueError(
                f"{sampler.corpus.folder} has {sampler.n_blocks} blocks of {sampler.block_cells} "
                f"cells for {world} processes: lower shards.block_cells, or use fewer processes"
            )
        self.sampler = sampler
        self.rule = rule
        self.rank = rank
        self.world = world
        self.n_epochs = n_epochs
        self.position = Position()

    def __iter__(self) -> Iterator[ShardBatch]:
        """Yield the batches from `position` on, and update it."""
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        # A DataLoader takes a batch of each worker in turn; a worker skips the batches of the others.
        for turn, (parts, after) in enumerate(self._batches(self.position)):
            if turn % of == number:
                taken = [cells.take(rows) for cells, rows in parts]
                self.position = after
                yield ShardBatch(
                    cells=taken[0] if len(taken) == 1 else PackedCells.joined(taken), after=after
                )

    def state_dict(self) -> dict[str, int]:
        """Return the position of the stream."""
        return {**asdict(self.position), "world": self.world}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the position of a stream.

        With another number of processes the rest of an epoch is divided differently, so the epoch
        restarts, with a warning.
        """
        position = Position(**{name: state[name] for name in asdict(self.position)})
        if state["world"] != self.world:
            warnings.warn(
                f"the run had {state['world']} processes and has {self.world} now: epoch "
                f"{position.epoch} restarts",
                UserWarning,
                stacklevel=2,
            )
            position = Position(epoch=position.epoch)
        self.position = position

    def _batches(self, start: Position) -> Iterator[tuple[_Parts, Position]]:
        """Yield the parts of each batch and the position after it.

        A batch that a pool does not fill is completed from the next pool. How a pool is cut depends
        only on how many of its cells that took, so that resuming reads at most one pool again.
        """
        partial: _Parts = []
        for at in self._pools(start):
            cells, rows, rng = self._fill(at)
            skip = at.skip
            if partial:
                skip = min(self.rule.cells - _count(partial), len(rows))
                partial.append((cells, rows[:skip]))
                if _count(partial) == self.rule.cells:
                    yield partial, replace(at, skip=skip)
                    partial = []
            batches, rest = cut_batches(cells.lengths, rows[skip:], self.rule, rng)
            for number in range(at.batch, len(batches)):
                yield (
                    [(cells, batches[number])],
                    replace(at, skip=skip, batch=number + 1),
                )
            if len(rest):
                partial.append((cells, rest))
        if partial:
            yield partial, Position(epoch=self.n_epochs or 0)

    def _pools(self, start: Position) -> Iterator[Position]:
        """Yield the position of each pool from `start` to the end of the last epoch."""
        size = self._pool_blocks
        n_pools = -(-len(self.sampler.blocks(start.epoch)[self.rank :: self.world]) // size)
        epochs = (
            itertools.count(start.epoch)
            if self.n_epochs is None
            else range(start.epoch, self.n_epochs)
        )
        for epoch in epochs:
            for pool in range(n_pools):
                at = Position(epoch=epoch, pool=pool)
                if (epoch, pool) >= (start.epoch, start.pool):
                    yield start if (epoch, pool) == (start.epoch, start.pool) else at

    def _fill(self, at: Position) -> tuple[PackedCells, np.ndarray, np.random.Generator]:
        """Read the drawn cells of a pool; return them with shuffled rows, repeated as drawn."""
        size = self._pool_blocks
        blocks = self.sampler.blocks(at.epoch)[self.rank :: self.world]
        parts, rows, n_cells = [], [], 0
        for number in blocks[at.pool * size : (at.pool + 1) * size]:
            shard, start, stop = self.sampler.block(int(number))
            copies = self.sampler.copies(at.epoch, shard, start, stop)
            used = np.flatnonzero(copies)
            stored = self.sampler.corpus.shard(shard)
            is_whole = len(used) == len(copies)  # one contiguous slice of the file
            part = stored.slice(start, stop) if is_whole else stored.take(start + used)
            part.columns["cell"] = used + start + int(self.sampler.corpus.starts[shard])
            parts.append(part)
            rows.append(np.repeat(np.arange(n_cells, n_cells + len(used)), copies[used]))
            n_cells += len(used)
        rng = np.random.default_rng([self.sampler.seed, at.epoch, _POOL, self.rank, at.pool])
        return PackedCells.joined(parts), rng.permutation(np.concatenate(rows)), rng

    @property
    def _pool_blocks(self) -> int:
        return max(1, self.rule.pool // self.sampler.block_cells)


class ShardLoader:
    """A `DataLoader` over a stream, which keeps the position of the last batch taken.

    Parameters
    ----------
    stream
        Stream to load.
    n_workers
        Worker processes; 0 loads in this process.
    """

    def __init__(self, stream: ShardStream, *, n_workers: int = 0) -> None:
        self.stream = stream
        self.n_workers = n_workers

    def __iter__(self) -> Iterator[ShardBatch]:
        """Yield the batches from the stream's position on."""
        loader = DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self.n_workers,
            # numba and OpenMP do not survive a fork.
            multiprocessing_context="spawn" if self.n_workers else None,
        )
        for batch in loader:
            # Workers prefetch batches.
            self.stream.position = batch.after
            yield batch


def _count(parts: _Parts) -> int:
    return sum(len(rows) for _, rows in parts)
