"""Cut the cells of a shuffle pool into batches."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BatchRule:
    """Batching settings.

    Attributes
    ----------
    cells
        Cells per batch, except the very last; with a limit on tokens, the maximum.
    tokens
        Maximum tokens per batch, with padding and CLS; 0 for no limit. A cell that exceeds it is a
        batch of its own.
    max_genes
        Maximum genes counted per cell.
    bucket
        Cells sorted by length before they are cut into batches, so that the cells of a batch have
        similar lengths; 0 for no sorting.
    pool
        Cells in memory at once, shuffled together.
    """

    cells: int
    tokens: int = 0
    max_genes: int = 2048
    bucket: int = 0
    pool: int = 16384


def cut_batches(
    lengths: np.ndarray, rows: np.ndarray, rule: BatchRule, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut shuffled rows into batches of cells of similar length.

    Parameters
    ----------
    lengths
        Number of genes of each cell, shape (n_cells,).
    rows
        Cells to batch, repeated as often as they are drawn, in random order, shape (n_rows,).
    rule
        Batching settings.
    rng
        Random generator for the order of the batches.

    Returns
    -------
    list of numpy.ndarray, numpy.ndarray
        Rows of each batch, and leftover rows, too few for a batch; none if tokens are limited.
    """
    n_left = 0 if rule.tokens else len(rows) % rule.cells
    rows, left = np.split(rows, [len(rows) - n_left])
    widths = np.minimum(lengths, rule.max_genes)[rows] + 1  # CLS
    bucket = max(1, rule.bucket // rule.cells) * rule.cells if rule.bucket else max(1, len(rows))
    order = np.arange(len(rows))
    if rule.bucket:
        # Longest first within a bucket, so that the first cell of a batch sets its width.
        for start in range(0, len(rows), bucket):
            some = slice(start, start + bucket)
            order[some] = start + np.argsort(-widths[some], kind="stable")
    rows, widths = rows[order], widths[order]
    batches, first = [], 0
    while first < len(rows):
        n_cells = rule.cells
        if rule.tokens:
            n_cells = _within(widths[first : first + rule.cells], rule.tokens)
        batches.append(rows[first : first + n_cells])
        first += n_cells
    return [batches[place] for place in rng.permutation(len(batches))], left


def _within(widths: np.ndarray, n_tokens: int) -> int:
    """Count how many of the first cells fit into `n_tokens` when padded to the longest."""
    padded = np.maximum.accumulate(widths) * np.arange(1, len(widths) + 1)
    return max(1, int(np.searchsorted(padded, n_tokens, side="right")))
