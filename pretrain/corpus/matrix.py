"""The counts of an input of a corpus, a few rows at a time."""

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
        Of the build.
    joinids
        Cells of an experiment that are the rows of the matrix.
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
    """Yield some rows of a matrix, ascending; the start of a block is a place in `rows`.

    What lies between is read too, never more than a small block at once: a disk reads in one go
    faster than here and there.
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
