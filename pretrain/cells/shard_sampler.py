"""Sampler over shards: which cells an epoch contains, how often, and in which blocks they are read."""

from collections.abc import Set

import numpy as np

from langcell.tokens.token_corpus import TokenCorpus
from pretrain.cells.sampling import pair_weights
from pretrain.recipe.cell_config import Balance
from pretrain.recipe.cell_keys import uniforms

# Second number of the seed sequence of the order of blocks.
_ORDER = 20


class ShardSampler:
    """Sampler of the cells of each epoch.

    On average over epochs, a cell is drawn in proportion to its weight; a hash of seed, epoch and
    cell rounds the expected number up or down. So an epoch depends only on the seed and its number,
    not on the processes that read it. Without balance every cell is drawn once.

    Parameters
    ----------
    corpus
        Corpus to draw from.
    balance
        Weights by type and study (`pretrain.cells.sampling.pair_weights`).
    seed
        Seed; with the epoch number it determines all draws.
    without
        Types to leave out; cells without a type are left out too.
    max_repeats
        Maximum draws of a cell per epoch, however rare its type.
    block_cells
        Cells read contiguously. Cells of a corpus are shuffled, so a block is a random sample, and
        much faster to read.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        balance: Balance,
        *,
        seed: int,
        without: Set[str] = frozenset(),
        max_repeats: int = 8,
        block_cells: int = 64,
    ) -> None:
        self.corpus = corpus
        self.seed = seed
        self.block_cells = block_cells
        n_blocks = [-(-shard.n_cells // block_cells) for shard in corpus.manifest.shards]
        self._first_blocks = np.cumsum([0, *n_blocks])  # (n_shards + 1,)
        term, study, sizes = np.array(corpus.manifest.pairs, dtype=np.int64).reshape(-1, 3).T
        names = corpus.manifest.categories["term"]
        is_used = np.array([each >= 0 and names[each] not in without for each in term], dtype=bool)
        if not is_used.any():
            raise ValueError(f"{corpus.folder} has no cell of a training type")
        weights = pair_weights(term[is_used], study[is_used], sizes[is_used], balance)
        expected = np.zeros(len(term))
        expected[is_used] = np.minimum(weights * sizes[is_used].sum(), max_repeats)
        self._n_studies = len(corpus.manifest.categories["study"]) + 1
        pairs = self._pair(term, study)
        order = np.argsort(pairs)
        self._pairs, self._expected = pairs[order], expected[order]
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self._first_blocks[-1])

    def blocks(self, epoch: int) -> np.ndarray:
        """Return the blocks in the order of an epoch, shape (n_blocks,)."""
        if self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, _ORDER])
            self._order = (epoch, rng.permutation(self.n_blocks))
        return self._order[1]

    def block(self, number: int) -> tuple[int, int, int]:
        """Return the shard of a block, and the start and stop of its cells there."""
        shard = int(np.searchsorted(self._first_blocks, number, side="right")) - 1
        start = (number - int(self._first_blocks[shard])) * self.block_cells
        n_cells = self.corpus.manifest.shards[shard].n_cells
        return shard, start, min(start + self.block_cells, n_cells)

    def copies(self, epoch: int, shard: int, start: int, stop: int) -> np.ndarray:
        """Return how often an epoch draws each cell of a shard from start to stop, int64."""
        columns = self.corpus.shard(shard).columns
        pairs = self._pair(columns["term"][start:stop], columns["study"][start:stop])
        expected = self._expected[np.searchsorted(self._pairs, pairs)]
        cells = np.arange(start, stop) + int(self.corpus.starts[shard])
        # Rounds at random, so that the mean over epochs is the expected number.
        return np.floor(expected + uniforms(self.seed, epoch, cells)).astype(np.int64)

    def _pair(self, term: np.ndarray, study: np.ndarray) -> np.ndarray:
        return (term.astype(np.int64) + 1) * self._n_studies + study + 1
