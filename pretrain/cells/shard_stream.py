"""Batches of cells of a corpus, read in blocks and shuffled in a pool, that go on where they stopped."""

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
# Rows of pools that make up a batch.
_Parts = list[tuple[PackedCells, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the stream of one process stands.

    Attributes
    ----------
    epoch, pool
        Of the next batch, or of the last one where that was the last of its pool.
    skip
        Cells of the pool that filled up a batch begun in the pool before.
    batch
        Batches of the pool that are done, that one left out.
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
        Tokens, and the columns of a shard with the number of the cell in the corpus as `cell`.
    after
        Where the stream stands after it.
    """

    cells: PackedCells
    after: Position


class ShardStream(IterableDataset[ShardBatch]):
    """The batches of one process of a run, epoch after epoch.

    Blocks are shared out to the processes of a run, so that together they see each cell of an epoch
    as often as the sampler says, however many they are. The workers of a `DataLoader` share the
    batches out: the sequence is the same for any number of workers.

    Parameters
    ----------
    sampler
        What an epoch holds.
    rule
        Sizes.
    rank, world
        This process, and how many there are.
    n_epochs
        Epochs until the stream ends; None for no end, so that all processes make as many steps.

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
                f"cells for {world} processes: make block_cells smaller, or use fewer processes"
            )
        self.sampler = sampler
        self.rule = rule
        self.rank = rank
        self.world = world
        self.n_epochs = n_epochs
        self.position = Position()

    def __iter__(self) -> Iterator[ShardBatch]:
        """Yield the batches from `position` on, which moves along."""
        worker = get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        # A DataLoader takes a batch of each worker in turn; those of the others are not gathered.
        for turn, (parts, after) in enumerate(self._batches(self.position)):
            if turn % of == number:
                taken = [cells.take(rows) for cells, rows in parts]
                self.position = after
                yield ShardBatch(
                    cells=taken[0] if len(taken) == 1 else PackedCells.joined(taken), after=after
                )

    def state_dict(self) -> dict[str, int]:
        """Return where the stream stands."""
        return {**asdict(self.position), "world": self.world}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another stream stood.

        What is left of an epoch is shared out differently among another number of processes: the
        epoch begins anew then, with a warning.
        """
        position = Position(**{name: state[name] for name in asdict(self.position)})
        if state["world"] != self.world:
            warnings.warn(
                f"the run had {state['world']} processes and has {self.world} now: epoch "
                f"{position.epoch} begins anew",
                UserWarning,
                stacklevel=2,
            )
            position = Position(epoch=position.epoch)
        self.position = position

    def _batches(self, start: Position) -> Iterator[tuple[_Parts, Position]]:
        """Yield the parts of each batch and the position after it.

        A batch that a pool does not fill is filled up from the next one. Where a pool is cut depends
        on how many of its cells went there and on nothing before, so that no more than a pool must
        be read again to go on.
        """
        begun: _Parts = []
        for at in self._pools(start):
            cells, rows, rng = self._fill(at)
            skip = at.skip
            if begun:
                skip = min(self.rule.cells - _count(begun), len(rows))
                begun.append((cells, rows[:skip]))
                if _count(begun) == self.rule.cells:
                    yield begun, replace(at, skip=skip)
                    begun = []
            batches, rest = cut_batches(cells.lengths, rows[skip:], self.rule, rng)
            for number in range(at.batch, len(batches)):
                yield (
                    [(cells, batches[number])],
                    replace(at, skip=skip, batch=number + 1),
                )
            if len(rest):
                begun.append((cells, rest))
        if begun:
            yield begun, Position(epoch=self.n_epochs or 0)

    def _pools(self, start: Position) -> Iterator[Position]:
        """Yield the position of each pool from one on, until the last epoch ends."""
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
        """Read the cells of a pool that come in its epoch; return rows of them as often, shuffled."""
        size = self._pool_blocks
        blocks = self.sampler.blocks(at.epoch)[self.rank :: self.world]
        parts, rows, n_cells = [], [], 0
        for number in blocks[at.pool * size : (at.pool + 1) * size]:
            shard, start, stop = self.sampler.block(int(number))
            copies = self.sampler.copies(at.epoch, shard, start, stop)
            used = np.flatnonzero(copies)
            stored = self.sampler.corpus.shard(shard)
            is_whole = len(used) == len(copies)  # one piece of the file
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
    """A `DataLoader` over a stream; the stream's position is that of the last batch taken.

    Parameters
    ----------
    stream
        What to load.
    n_workers
        Processes that gather batches; 0 for none but this.
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
            # Workers run ahead of whoever takes the batches.
            self.stream.position = batch.after
            yield batch


def _count(parts: _Parts) -> int:
    return sum(len(rows) for _, rows in parts)
