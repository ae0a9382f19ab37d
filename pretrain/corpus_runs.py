"""A tokenised piece of an input, on its way into shards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.packed_cells import PackedCells
from langcell.shard_file import map_tensors, write_tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The kept cells of a piece, ascending by `keys`.

    The cells of a shard are those with keys in a range, so they lie side by side here.

    Attributes
    ----------
    cells
        Tokens, and columns as a shard has them.
    keys
        Where cells lie in the shuffled corpus (`shuffle_keys`), uint64, shape (n_cells,).
    content
        What they hold (`content_keys`), uint64, shape (n_cells,).
    seen
        Genes that any cell of the piece expressed, bool, shape (n_genes,), in order of tokens; none
        where the matrix itself says what was measured.
    n_few
        Cells left out because they have too few genes.
    """

    cells: PackedCells
    keys: np.ndarray
    content: np.ndarray
    seen: np.ndarray
    n_few: int

    def write(self, path: Path) -> None:
        """Write the run, whole or not at all."""
        tensors = {
            "tokens": self.cells.tokens,
            "offsets": self.cells.offsets,
            **self.cells.columns,
            "key": self.keys,
            "content": self.content,
            "seen": self.seen.astype(np.uint8),
            "few": np.array([self.n_few], dtype=np.int64),
        }
        write_tensors(path, tensors)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Map what `write` wrote."""
        tensors = map_tensors(path)
        return cls(
            keys=tensors.pop("key"),
            content=tensors.pop("content"),
            seen=tensors.pop("seen").astype(bool),
            n_few=int(tensors.pop("few")[0]),
            cells=PackedCells(
                tokens=tensors.pop("tokens"), offsets=tensors.pop("offsets"), columns=tensors
            ),
        )
