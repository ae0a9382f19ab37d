"""Read the counts of an input of a corpus in blocks of rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from langcell.counts.reader import CountBlock, CountMatrix, open_counts
from pretrain.corpus.inputs import CorpusInput
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.soma_inputs import open_experiment, soma_matrix

_BLOCK_ROWS = 1024


@contextmanager
def open_matrix(
    source: CorpusInput, options: BuildOptions, joinids: np.ndarray | None = None
) -> Iterator[CountMatrix]:
    """Open the counts of an input.

    Parameters
    ----------
    source
        A file or a SOMA experiment.
    options
        Options of the build.
    joinids
        Join ids of the cells of an experiment to read as rows.
    """
    if source.kind == "soma":
        assert joinids is not None
        with open_experiment(source.path) as experiment:
            yield soma_matrix(experiment, source.path, joinids, options)
    else:
        with open_counts(
            source.path, layer=options.layer, allow_normalized=options.allow_normalized
        ) as matrix:
            yield matrix


def read_rows(matrix: CountMatrix, rows: np.ndarray) -> Iterator[CountBlock]:
    """Yield the given ascending rows of a matrix; the start of a block is an index into `rows`.

    Rows in between are read too, at most a small block at once: sequential reads are faster.
    """
    done = 0
    while done < len(rows):
        first = int(rows[done])
        n_inside = int(np.searchsorted(rows, first + _BLOCK_ROWS)) - done
        inside = rows[done : done + n_inside]
        block = matrix.read(first, int(inside[-1]) + 1)
        if len(block.totals) == n_inside:
            yield CountBlock(start=done, counts=block.counts, totals=block.totals)
        else:
            places = inside - first
            yield CountBlock(start=done, counts=block.counts[places], totals=block.totals[places])
        done += n_inside
