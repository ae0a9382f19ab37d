"""How the cells of a pool become batches."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BatchRule:
    """How cells become batches.

    Attributes
    ----------
    cells
        Of each batch, but for the last of all; with a limit on tokens, at most.
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


def cut_batches(
    lengths: np.ndarray, rows: np.ndarray, rule: BatchRule, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut shuffled rows into batches of about equally long cells.

    Parameters
    ----------
    lengths
        Genes of each cell, shape (n_cells,).
    rows
        Cells of the batches, each as often as it comes, in random order, shape (n_rows,).
    rule
        Sizes.
    rng
        Random state, for the order of the batches.

    Returns
    -------
    list of numpy.ndarray, numpy.ndarray
        Rows of each batch, and those left over, too few for one; none where tokens are limited.
    """
    n_left = 0 if rule.tokens else len(rows) % rule.cells
    rows, left = np.split(rows, [len(rows) - n_left])
    widths = np.minimum(lengths, rule.max_genes)[rows] + 1  # the class token
    bucket = max(1, rule.bucket // rule.cells) * rule.cells if rule.bucket else max(1, len(rows))
    order = np.arange(len(rows))
    if rule.bucket:
        # Longest first within a bucket, so that the first cell of a batch says how wide it is.
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
    """Count the first cells that fit into so many tokens when padded to their longest."""
    padded = np.maximum.accumulate(widths) * np.arange(1, len(widths) + 1)
    return max(1, int(np.searchsorted(padded, n_tokens, side="right")))
