"""Which cells of a corpus an epoch sees, how often, and in which blocks they are read."""

from collections.abc import Set

import numpy as np

from langcell.tokens.token_corpus import TokenCorpus
from pretrain.cells.sampling import pair_weights
from pretrain.recipe.cell_config import Balance
from pretrain.recipe.cell_keys import uniforms

# Second number of the seed sequence of the order of blocks.
_ORDER = 20


class ShardSampler:
    """Shares the cells of a corpus out to epochs.

    A cell comes in an epoch as often as its weight says, on average over epochs; the fraction is
    decided by a hash of seed, epoch and cell. So an epoch is a function of the seed and its number
    alone, whoever reads it and from wherever. Without balance every cell comes once.

    Parameters
    ----------
    corpus
        What to draw from.
    balance
        Weights by type and study (`pretrain.cells.sampling.pair_weights`).
    seed
        With the number of the epoch it determines all.
    without
        Types that never come; cells without a type do not either.
    max_repeats
        A cell comes at most so often in an epoch, however rare its type is.
    block_cells
        Cells that are read side by side. Cells of a corpus are shuffled, so a block is as good a
        sample as any other cells, and much faster read.
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
            raise ValueError(f"{corpus.folder} has no cell of a type that is trained on")
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
        """Count the blocks."""
        return int(self._first_blocks[-1])

    def blocks(self, epoch: int) -> np.ndarray:
        """Return the order in which an epoch reads the blocks, shape (n_blocks,)."""
        if self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, _ORDER])
            self._order = (epoch, rng.permutation(self.n_blocks))
        return self._order[1]

    def block(self, number: int) -> tuple[int, int, int]:
        """Return the shard of a block, its first cell there, and the one after the last."""
        shard = int(np.searchsorted(self._first_blocks, number, side="right")) - 1
        start = (number - int(self._first_blocks[shard])) * self.block_cells
        n_cells = self.corpus.manifest.shards[shard].n_cells
        return shard, start, min(start + self.block_cells, n_cells)

    def copies(self, epoch: int, shard: int, start: int, stop: int) -> np.ndarray:
        """Return how often each of some cells of a shard comes in an epoch, int64."""
        columns = self.corpus.shard(shard).columns
        pairs = self._pair(columns["term"][start:stop], columns["study"][start:stop])
        expected = self._expected[np.searchsorted(self._pairs, pairs)]
        cells = np.arange(start, stop) + int(self.corpus.starts[shard])
        # The random fraction rounds up or down so that the mean over epochs is what is expected.
        return np.floor(expected + uniforms(self.seed, epoch, cells)).astype(np.int64)

    def _pair(self, term: np.ndarray, study: np.ndarray) -> np.ndarray:
        return (term.astype(np.int64) + 1) * self._n_studies + study + 1
