"""A tokenised piece of an input, on its way into shards."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.shard_file import map_tensors, write_tensors

# A run of fewer cells has one range, as many small files would cost more than the disk they free.
_LEAST_SPLIT = 4096
_N_RANGES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The kept cells of a piece, ascending by `keys`.

    The cells of a shard are those with keys in a range, so they lie side by side here. Tokens are
    nearly all of a run: those of each of `n_ranges` equal ranges of keys have a file of their own,
    which can go as soon as the shards that hold them are written.

    Attributes
    ----------
    path
        Where the run is; the files of its tokens lie beside it.
    keys
        Where cells lie in the shuffled corpus (`shuffle_keys`), uint64, shape (n_cells,).
    content
        What they hold (`content_keys`), uint64, shape (n_cells,).
    offsets
        Where the tokens of each cell begin among those of all, int64, shape (n_cells + 1,).
    columns
        What else is known of each, as a shard has it.
    seen
        Genes that any cell of the piece expressed, bool, shape (n_genes,), in order of tokens; none
        where the matrix itself says what was measured.
    n_few
        Cells left out because they have too few genes.
    """

    path: Path
    keys: np.ndarray
    content: np.ndarray
    offsets: np.ndarray
    columns: dict[str, np.ndarray]
    seen: np.ndarray
    n_few: int

    @property
    def n_ranges(self) -> int:
        """Count the ranges of keys."""
        return 1 if len(self.keys) < _LEAST_SPLIT else _N_RANGES

    @property
    def range_starts(self) -> np.ndarray:
        """Where the cells of each range begin, and their number, int64, shape (n_ranges + 1,)."""
        edges = [number * 2**64 // self.n_ranges for number in range(1, self.n_ranges)]
        inner = np.searchsorted(self.keys, np.array(edges, dtype=np.uint64))
        return np.concatenate([[0], inner, [len(self.keys)]])

    def write(self, tokens: Iterable[np.ndarray]) -> None:
        """Write the run, last of all the file at `path`; `tokens` are those of each range, end to end."""
        for number, of_range in enumerate(tokens):
            write_tensors(self._tokens(number), {"tokens": of_range})
        tensors = {
            "offsets": self.offsets,
            **self.columns,
            "key": self.keys,
            "content": self.content,
            "seen": self.seen.astype(np.uint8),
            "few": np.array([self.n_few], dtype=np.int64),
        }
        write_tensors(self.path, tensors)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Map what `write` wrote."""
        tensors = map_tensors(path)
        return cls(
            path=path,
            keys=tensors.pop("key"),
            content=tensors.pop("content"),
            offsets=tensors.pop("offsets"),
            seen=tensors.pop("seen").astype(bool),
            n_few=int(tensors.pop("few")[0]),
            columns=tensors,
        )

    def cells(self, number: int) -> tuple[int, PackedCells]:
        """Map the cells in a range of keys; return the place of the first in the run, too."""
        start, stop = self.range_starts[number : number + 2].tolist()
        offsets = self.offsets[start : stop + 1]
        cells = PackedCells(
            tokens=map_tensors(self._tokens(number))["tokens"],
            offsets=offsets - offsets[0],
            columns={name: column[start:stop] for name, column in self.columns.items()},
        )
        return start, cells

    def forget(self, number: int) -> None:
        """Delete the tokens of a range of keys."""
        self._tokens(number).unlink(missing_ok=True)

    def _tokens(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}-{number:02}.safetensors")
