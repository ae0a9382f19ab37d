"""Cells as rank-value sequences: genes ordered by count / total x 10,000 / corpus median."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from langcell.counts.row_readers import spread
from langcell.genes.table import GeneResolution
from langcell.genes.vocabulary import GeneVocabulary
from langcell.tokens.rank_kernel import rank_cells

if TYPE_CHECKING:
    from langcell.counts.reader import CountMatrix

# Decision floors: below the first a file is refused, below the second the user is warned.
SHARE_FLOOR, SHARE_WARNING = 0.30, 0.50
GENES_FLOOR, GENES_WARNING = 20, 200
_SAMPLE_CELLS = 1000  # a file of more is judged by pieces
_PIECE_CELLS = 250


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBlock:
    """Ranked genes of consecutive cells.

    Attributes
    ----------
    start : row of the first cell in its source.
    tokens : token ids of all cells end to end, shape (n_tokens,); uint16, or int32 where the
        vocabulary needs it.
    offsets : where each cell begins, int64, shape (n_cells + 1,).
    """

    start: int
    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, cells: Sequence[np.ndarray]) -> "TokenBlock":
        """Return cells that are given one by one as a block, which starts at row 0."""
        offsets = np.append(0, np.cumsum([len(cell) for cell in cells]))
        return cls(start=0, tokens=np.concatenate(cells), offsets=offsets)

    @property
    def n_cells(self) -> int:
        """Count the cells."""
        return len(self.offsets) - 1

    def cell(self, row: int) -> np.ndarray:
        """Return the tokens of one cell of the block, highest rank first."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def part(self, first: int, stop: int) -> "TokenBlock":
        """Return consecutive cells of the block, from row `first` of it up to `stop`."""
        offsets = self.offsets[first : stop + 1]
        return TokenBlock(
            start=self.start + first,
            tokens=self.tokens[offsets[0] : offsets[-1]],
            offsets=offsets - offsets[0],
        )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a file the vocabulary can read.

    Attributes
    ----------
    share_coding_resolved : share of the file's protein-coding genes that resolve, 0 to 1.
    n_genes : genes (columns) of the file.
    n_known_genes : genes of the vocabulary that the file has; columns of one gene count once.
    median_known_genes : known genes that a cell expresses, median over cells from all over the
        file.
    """

    share_coding_resolved: float
    n_genes: int
    n_known_genes: int
    median_known_genes: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnGenes:
    """What the columns of a matrix are to a vocabulary.

    Attributes
    ----------
    tokens : token of each column, -1 where unknown, int64, shape (n_columns,).
    medians : corpus median of each column's gene, NaN where unknown, shape (n_columns,).
    first_columns : for each column the first one of the same gene, shape (n_columns,); None
        where no gene has two columns.
    """

    tokens: np.ndarray
    medians: np.ndarray
    first_columns: np.ndarray | None


class RankTokenizer:
    """Turn counts into ranked gene tokens (Geneformer; Theodoris et al. 2023, Methods).

    Parameters
    ----------
    vocabulary
        Known genes and their corpus medians.
    max_genes
        Keep at most so many genes of a cell.

    Examples
    --------
    >>> vocabulary = GeneVocabulary(
    ...     ensembl_ids=("ENSG00000010610", "ENSG00000153563"),
    ...     symbols=("CD4", "CD8A"),
    ...     medians=np.array([1.0, 4.0]),
    ... )
    >>> counts = sparse.csr_matrix(np.array([[3.0, 6.0], [0.0, 2.0]]))
    >>> genes = ColumnGenes(tokens=np.array([2, 3]), medians=vocabulary.medians, first_columns=None)
    >>> block = RankTokenizer(vocabulary, max_genes=8).tokenize_csr(counts, genes)
    >>> [block.cell(row).tolist() for row in range(2)]
    [[2, 3], [3]]
    """

    def __init__(self, vocabulary: GeneVocabulary, *, max_genes: int) -> None:
        if max_genes < 1:
            raise ValueError(f"max_genes must be at least 1, got {max_genes}")
        self.vocabulary = vocabulary
        self.max_genes = max_genes
        self.dtype = np.uint16 if vocabulary.size <= np.iinfo(np.uint16).max else np.int32

    def column_genes(self, resolution: GeneResolution) -> ColumnGenes:
        """Look the genes of a file's columns up in the vocabulary."""
        tokens = self.vocabulary.token_ids(resolution.ensembl_ids)
        medians = self.vocabulary.token_medians[tokens]
        _, first, inverse = np.unique(tokens, return_index=True, return_inverse=True)
        first_columns = np.where(tokens >= 0, first[inverse], np.arange(len(tokens)))
        is_merged = bool((first_columns != np.arange(len(tokens))).any())
        return ColumnGenes(
            tokens=tokens, medians=medians, first_columns=first_columns if is_merged else None
        )

    def tokenize(
        self,
        matrix: "CountMatrix",
        *,
        rows: int = 1024,
        check_coverage: bool = True,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[TokenBlock]:
        """Tokenise the cells of a matrix from start to stop, after checking its coverage.

        Blocks have `rows` cells. Empty cells give empty sequences and one warning. A caller that
        has called `coverage` already leaves the check out.

        Raises
        ------
        ValueError
            If too little of the file is known; see `coverage`.
        """
        if check_coverage:
            self.coverage(matrix)
        genes = self.column_genes(matrix.resolution)
        if genes.first_columns is not None:
            names = matrix.resolution.duplicates
            warnings.warn(
                f"{len(names)} columns name a gene that another column names too and are summed "
                f"with it: {_some(names)}",
                UserWarning,
                stacklevel=2,
            )
        n_empty = 0
        for counts in matrix.blocks(rows, start=start, stop=stop):
            block = self.tokenize_csr(counts.counts, genes, counts.totals, start=counts.start)
            n_empty += int((np.diff(block.offsets) == 0).sum())
            yield block
        if n_empty:
            warnings.warn(
                f"{n_empty} cells express no known gene; their tokens are empty",
                UserWarning,
                stacklevel=2,
            )

    def tokenize_csr(
        self,
        counts: sparse.csr_matrix,
        genes: ColumnGenes,
        totals: np.ndarray | None = None,
        *,
        start: int = 0,
    ) -> TokenBlock:
        """Tokenise the rows of a CSR matrix.

        Parameters
        ----------
        counts
            Linear, not negative, shape (n_cells, n_columns).
        genes
            What the columns are.
        totals
            Total count of each cell over all columns of its source, float64, shape (n_cells,);
            None takes the row sums.
        start
            Row of the first cell in its source.
        """
        if totals is None:
            totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        merged = merge_columns(counts, genes)
        data = merged.data
        tokens, offsets = rank_cells(
            merged.indptr.astype(np.int64, copy=False),
            merged.indices.astype(np.int32, copy=False),
            data if data.dtype == np.float32 else data.astype(np.float64, copy=False),
            np.asarray(totals, dtype=np.float64),
            genes.tokens,
            genes.medians,
            max_genes=self.max_genes,
            dtype=self.dtype,
        )
        return TokenBlock(start=start, tokens=tokens, offsets=offsets)

    def coverage(self, matrix: "CountMatrix") -> Coverage:
        """Measure how much of a file is known, on cells from all over it.

        Raises
        ------
        ValueError
            If under 30 % of the file's protein-coding genes resolve, or its cells express fewer
            than 20 known genes (median). Under 50 % and 200 there is a warning.
        """
        genes = self.column_genes(matrix.resolution)
        n_cells = matrix.n_cells
        n_known = [
            _count_known(matrix.read(piece.start, piece.stop).counts, genes)
            for piece in spread(n_cells, n_cells if n_cells <= _SAMPLE_CELLS else _PIECE_CELLS)
        ]
        coverage = Coverage(
            share_coding_resolved=matrix.resolution.share_coding_resolved,
            n_genes=len(genes.tokens),
            n_known_genes=len(np.unique(genes.tokens[genes.tokens >= 0])),
            median_known_genes=float(np.median(np.concatenate(n_known))),
        )
        _judge(coverage, matrix.resolution)
        return coverage


def merge_columns(counts: sparse.csr_matrix, genes: ColumnGenes) -> sparse.csr_matrix:
    """Return counts in which the columns of one gene are summed into the first of them.

    Parameters
    ----------
    counts
        Shape (n_cells, n_columns).
    genes
        What the columns are.
    """
    if genes.first_columns is None:
        return counts
    merged = sparse.csr_matrix(
        (counts.data.copy(), genes.first_columns[counts.indices], counts.indptr.copy()),
        shape=counts.shape,
    )
    merged.sum_duplicates()
    return merged


def collate_tokens(
    cells: Sequence[np.ndarray],
    *,
    cls_id: int | None,
    eos_id: int | None = None,
    pad_id: int,
    width: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Put CLS before each cell's tokens, EOS after them, and pad to one width.

    Parameters
    ----------
    cells
        Tokens of each cell, highest rank first.
    cls_id, eos_id, pad_id
        Special tokens; None leaves CLS or EOS out.
    width
        Length with CLS and EOS; longer cells lose their lowest ranks. None takes the longest cell's.

    Returns
    -------
    tuple of numpy.ndarray
        `input_ids`, int64, and `attention_mask`, bool, both shape (n_cells, width).

    Examples
    --------
    >>> ids, mask = collate_tokens([np.array([5, 4]), np.array([])], cls_id=9, pad_id=0)
    >>> ids.tolist(), mask.sum()
    ([[9, 5, 4], [9, 0, 0]], np.int64(4))
    """
    first, n_after = int(cls_id is not None), int(eos_id is not None)
    n_special = first + n_after
    width = width or max(1, n_special + max((len(tokens) for tokens in cells), default=0))
    input_ids = np.full((len(cells), width), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(cells), width), dtype=bool)
    if cls_id is not None:
        input_ids[:, 0] = cls_id
    for row, tokens in enumerate(cells):
        kept = tokens[: width - n_special]
        stop = first + len(kept)
        input_ids[row, first:stop] = kept
        if eos_id is not None:
            input_ids[row, stop] = eos_id
        attention_mask[row, : stop + n_after] = True
    attention_mask[:, 0] = True  # a cell without a token is its padding, for attention to be finite
    return input_ids, attention_mask


def _count_known(counts: sparse.csr_matrix, genes: ColumnGenes) -> np.ndarray:
    """Count the known genes that each cell expresses, shape (n_cells,)."""
    merged = merge_columns(counts, genes)
    is_known = (genes.tokens[merged.indices] >= 0) & (merged.data != 0)
    return np.diff(np.append(0, np.cumsum(is_known))[merged.indptr])


def _judge(coverage: Coverage, resolution: GeneResolution) -> None:
    share, n_genes = coverage.share_coding_resolved, coverage.median_known_genes
    unknown = f"unresolved, for example: {_some(resolution.unresolved)}"
    if coverage.n_known_genes == 0:
        raise ValueError(
            f"none of the {coverage.n_genes} gene names is known; wanted human Ensembl ids "
            f"(ENSG...) or gene symbols as var index or column; {unknown}"
        )
    if share < SHARE_FLOOR:
        raise ValueError(
            f"gene coverage: {share:.0%} of the protein-coding genes resolve, wanted at least "
            f"{SHARE_FLOOR:.0%}; give human Ensembl ids or current gene symbols; {unknown}"
        )
    if n_genes < GENES_FLOOR:
        raise ValueError(
            f"gene coverage: the median cell expresses {n_genes:.0f} known genes, wanted at least "
            f"{GENES_FLOOR}; give the whole count matrix, not a few marker genes"
        )
    if share < SHARE_WARNING or n_genes < GENES_WARNING:
        warnings.warn(
            f"low gene coverage: {share:.0%} of the protein-coding genes resolve and the median "
            f"cell expresses {n_genes:.0f} known genes; calls may be poor",
            UserWarning,
            stacklevel=4,
        )


def _some(names: Sequence[str], n: int = 5) -> str:
    shown = ", ".join(names[:n]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > n else shown
