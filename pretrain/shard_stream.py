"""Batches of cells of a corpus, read in blocks and shuffled in a pool, that go on where they stopped."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from langcell.packed_cells import PackedCells
from pretrain.shard_sampler import ShardSampler

# Second number of the seed sequence of a pool.
_POOL = 21


@dataclass(frozen=True, kw_only=True)
class Position:
    """The next batch of one process: its epoch, its pool there, its place in that."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchRule:
    """How cells become batches.

    Attributes
    ----------
    cells
        Of a batch at most.
    tokens
        Of a batch at most, padding and class tokens counted; 0 for no limit. A cell that is longer
        alone is a batch of its own.
    max_genes
        Genes that are counted of a cell.
    bucket
        Cells that are sorted by length before they are cut into batches, so that the cells of a
        batch are about equally long; 0 for none.
    pool
        Cells that are in memory at once and are shuffled with each other.
    """

    cells: int
    tokens: int = 0
    max_genes: int = 2048
    bucket: int = 0
    pool: int = 16384


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
        turn = 0
        start = self.position
        epochs = itertools.count(start.epoch)
        for epoch in itertools.takewhile(lambda epoch: epoch != self.n_epochs, epochs):
            first = start if epoch == start.epoch else Position(epoch=epoch)
            for cells, rows, after in self._epoch(first):
                # A DataLoader takes a batch of each worker in turn; the others' are not gathered.
                if turn % of == number:
                    self.position = after
                    yield ShardBatch(cells=cells.take(rows), after=after)
                turn += 1

    def state_dict(self) -> dict[str, int]:
        """Return where the stream stands."""
        return {**asdict(self.position), "world": self.world}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another stream stood.

        What is left of an epoch is shared out differently among another number of processes: the
        epoch begins anew then, with a warning.
        """
        position = Position(epoch=state["epoch"], pool=state["pool"], batch=state["batch"])
        if state["world"] != self.world:
            warnings.warn(
                f"the run had {state['world']} processes and has {self.world} now: epoch "
                f"{position.epoch} begins anew",
                UserWarning,
                stacklevel=2,
            )
            position = Position(epoch=position.epoch)
        self.position = position

    def _epoch(self, first: Position) -> Iterator[tuple[PackedCells, np.ndarray, Position]]:
        """Yield the pool, the rows in it and the position after each batch of an epoch."""
        blocks = self.sampler.blocks(first.epoch)[self.rank :: self.world]
        size = max(1, self.rule.pool // self.sampler.block_cells)
        pools = range(first.pool, -(-len(blocks) // size))
        for pool in pools:
            rng = np.random.default_rng([self.sampler.seed, first.epoch, _POOL, self.rank, pool])
            cells, rows = self._fill(first.epoch, blocks[pool * size : (pool + 1) * size])
            batches = cut_batches(cells.lengths, rows, self.rule, rng)
            for batch in range(first.batch if pool == first.pool else 0, len(batches)):
                after = Position(epoch=first.epoch, pool=pool, batch=batch + 1)
                if batch + 1 == len(batches):
                    is_last = pool + 1 == pools.stop
                    after = Position(epoch=first.epoch + is_last, pool=0 if is_last else pool + 1)
                yield cells, batches[batch], after

    def _fill(self, epoch: int, blocks: np.ndarray) -> tuple[PackedCells, np.ndarray]:
        """Read the cells of some blocks that come in an epoch, and repeat rows as they come."""
        parts, rows, n_cells = [], [], 0
        for number in blocks:
            shard, start, stop = self.sampler.block(int(number))
            copies = self.sampler.copies(epoch, shard, start, stop)
            used = np.flatnonzero(copies)
            stored = self.sampler.corpus.shard(shard)
            # A whole block is one piece of the file.
            part = (
                stored.slice(start, stop) if len(used) == len(copies) else stored.take(start + used)
            )
            part.columns["cell"] = used + start + int(self.sampler.corpus.starts[shard])
            parts.append(part)
            rows.append(np.repeat(np.arange(n_cells, n_cells + len(used)), copies[used]))
            n_cells += len(used)
        return PackedCells.joined(parts), np.concatenate(rows)


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


def cut_batches(
    lengths: np.ndarray, rows: np.ndarray, rule: BatchRule, rng: np.random.Generator
) -> list[np.ndarray]:
    """Shuffle rows and cut them into batches: every row is in one of them.

    Parameters
    ----------
    lengths
        Genes of each cell, shape (n_cells,).
    rows
        Cells of the batches, each as often as it comes, shape (n_rows,).
    rule
        Sizes.
    rng
        Random state.
    """
    rows = rng.permutation(rows)
    widths = np.minimum(lengths, rule.max_genes)[rows] + 1  # the class token
    bucket = rule.bucket or 1
    starts = range(0, len(rows), bucket)
    # Longest first within a bucket, so that the first cell of a batch says how wide it is.
    order = np.concatenate(
        [start + np.argsort(-widths[start : start + bucket], kind="stable") for start in starts]
        or [np.empty(0, np.int64)]
    )
    rows, widths = rows[order], widths[order]
    batches, first = [], 0
    while first < len(rows):
        n_cells = rule.cells
        if rule.tokens:
            n_cells = _within(widths[first : first + rule.cells], rule.tokens)
        batches.append(rows[first : first + n_cells])
        first += n_cells
    return [batches[place] for place in rng.permutation(len(batches))]


def _within(widths: np.ndarray, n_tokens: int) -> int:
    """Count the first cells that fit into so many tokens when padded to their longest."""
    padded = np.maximum.accumulate(widths) * np.arange(1, len(widths) + 1)
    return max(1, int(np.searchsorted(padded, n_tokens, side="right")))
