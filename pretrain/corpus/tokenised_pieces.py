"""Run: a tokenised piece of an input, before it is merged into shards."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.shard_file import map_tensors, write_tensors

# Smaller runs have one range, as many small files would cost more than the disk space they free.
_MIN_SPLIT = 4096
_N_RANGES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The kept cells of a piece, ascending by `keys`.

    A shard gets the cells with keys in a range, so its cells are contiguous here. Tokens take nearly
    all the space of a run, so each of `n_ranges` equal key ranges has its own file of tokens, which
    is deleted as soon as the shards with its cells are written.

    Attributes
    ----------
    path
        Path of the run; the files of its tokens are in the same folder.
    keys
        Sort keys of the shuffled corpus (`shuffle_keys`), uint64, shape (n_cells,).
    content
        Hash of the content of each cell (`content_keys`), uint64, shape (n_cells,).
    offsets
        Start of the tokens of each cell, int64, shape (n_cells + 1,).
    columns
        Other columns of the cells, as in a shard.
    seen
        Genes that any cell of the piece expressed, bool, shape (n_genes,), in order of tokens; all
        False if the matrix defines the measured genes.
    n_few
        Number of cells left out because they have too few genes.
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
        """Number of key ranges."""
        return 1 if len(self.keys) < _MIN_SPLIT else _N_RANGES

    @property
    def range_starts(self) -> np.ndarray:
        """First cell of each range, then the number of cells, int64, shape (n_ranges + 1,)."""
        edges = [number * 2**64 // self.n_ranges for number in range(1, self.n_ranges)]
        inner = np.searchsorted(self.keys, np.array(edges, dtype=np.uint64))
        return np.concatenate([[0], inner, [len(self.keys)]])

    def write(self, tokens: Iterable[np.ndarray]) -> None:
        """Write the run, the file at `path` last; `tokens` are the concatenated tokens per range."""
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
        """Memory-map a run that `write` wrote."""
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
        """Memory-map the cells of a key range; return their first index and the cells."""
        start, stop = self.range_starts[number : number + 2].tolist()
        offsets = self.offsets[start : stop + 1]
        cells = PackedCells(
            tokens=map_tensors(self._tokens(number))["tokens"],
            offsets=offsets - offsets[0],
            columns={name: column[start:stop] for name, column in self.columns.items()},
        )
        return start, cells

    def delete_tokens(self, number: int) -> None:
        """Delete the tokens of a key range."""
        self._tokens(number).unlink(missing_ok=True)

    def _tokens(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}-{number:02}.safetensors")
