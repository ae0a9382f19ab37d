"""Tokenise cells as rank-value sequences: genes by count / total x 10,000 / corpus median."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from langcell.counts.row_readers import spread
from langcell.genes.gene_table import GeneResolution
from langcell.genes.vocabulary import GeneVocabulary
from langcell.tokens.rank_kernel import rank_cells

if TYPE_CHECKING:
    from langcell.counts.reader import CountMatrix

# Coverage thresholds: below the first a file is refused, below the second there is a warning.
SHARE_FLOOR, SHARE_WARNING = 0.30, 0.50
GENES_FLOOR, GENES_WARNING = 20, 200
_SAMPLE_CELLS = 1000  # the coverage of larger files is measured on pieces
_PIECE_CELLS = 250


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBlock:
    """Ranked genes of consecutive cells.

    Attributes
    ----------
    start : row of the first cell in its source.
    tokens : token ids of all cells, concatenated, shape (n_tokens,); uint16, or int32 for a large
        vocabulary.
    offsets : start of each cell in `tokens`, int64, shape (n_cells + 1,).
    """

    start: int
    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, cells: Sequence[np.ndarray]) -> "TokenBlock":
        """Make a block that starts at row 0 from a list of cells."""
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
        """Return the cells of the block from row `first` to `stop`."""
        offsets = self.offsets[first : stop + 1]
        return TokenBlock(
            start=self.start + first,
            tokens=self.tokens[offsets[0] : offsets[-1]],
            offsets=offsets - offsets[0],
        )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Overlap between the genes of a file and the vocabulary.

    Attributes
    ----------
    share_coding_resolved : share of the file's protein-coding genes that are resolved, 0 to 1.
    n_genes : number of genes (columns) of the file.
    n_known_genes : number of vocabulary genes in the file; several columns of a gene count once.
    median_known_genes : number of known genes expressed in a cell, median over sampled cells.
    """

    share_coding_resolved: float
    n_genes: int
    n_known_genes: int
    median_known_genes: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnGenes:
    """Tokens and medians of the columns of a matrix.

    Attributes
    ----------
    tokens : token of each column, -1 if unknown, int64, shape (n_columns,).
    medians : corpus median of each column's gene, NaN if unknown, shape (n_columns,).
    first_columns : for each column the first column of the same gene, shape (n_columns,); None if
        no gene has two columns.
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
        Maximum number of genes per cell.

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
        """Look up the genes of a file's columns in the vocabulary."""
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
        """Tokenise the cells of a matrix from start to stop, in blocks of `rows` cells.

        Cells without known genes give empty sequences and one warning. Pass `check_coverage=False`
        if `coverage` has been called before.

        Raises
        ------
        ValueError
            If too few genes of the file are known; see `coverage`.
        """
        if check_coverage:
            self.coverage(matrix)
        genes = self.column_genes(matrix.resolution)
        if genes.first_columns is not None:
            names = matrix.resolution.duplicates
            warnings.warn(
                f"{len(names)} columns have the same gene as another column and are summed with it: "
                f"{_some(names)}",
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
            Linear values, not negative, shape (n_cells, n_columns).
        genes
            Tokens and medians of the columns.
        totals
            Total count of each cell over all columns of its source, float64, shape (n_cells,);
            by default the row sums.
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
        """Measure the gene coverage of a file, on cells sampled from all over it.

        Raises
        ------
        ValueError
            If less than 30 % of the file's protein-coding genes are resolved, or its cells express
            fewer than 20 known genes (median). Below 50 % or 200 genes there is a warning.
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
    """Sum all columns of a gene into its first column.

    Parameters
    ----------
    counts
        Shape (n_cells, n_columns).
    genes
        Tokens and medians of the columns.
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
    """Add CLS before and EOS after each cell's tokens, and pad all cells to one width.

    Parameters
    ----------
    cells
        Tokens of each cell, highest rank first.
    cls_id, eos_id, pad_id
        Special tokens; None leaves CLS or EOS out.
    width
        Length including CLS and EOS; longer cells are cut at the end. None is the length of the
        longest cell.

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
    attention_mask[:, 0] = True  # a cell without tokens attends to padding, so attention is finite
    return input_ids, attention_mask


def _count_known(counts: sparse.csr_matrix, genes: ColumnGenes) -> np.ndarray:
    """Count the known genes expressed in each cell, shape (n_cells,)."""
    merged = merge_columns(counts, genes)
    is_known = (genes.tokens[merged.indices] >= 0) & (merged.data != 0)
    return np.diff(np.append(0, np.cumsum(is_known))[merged.indptr])


def _judge(coverage: Coverage, resolution: GeneResolution) -> None:
    share, n_genes = coverage.share_coding_resolved, coverage.median_known_genes
    unknown = f"unresolved, for example: {_some(resolution.unresolved)}"
    if coverage.n_known_genes == 0:
        raise ValueError(
            f"none of the {coverage.n_genes} gene names is known; expected human Ensembl ids "
            f"(ENSG...) or gene symbols in the var index or a var column; {unknown}"
        )
    if share < SHARE_FLOOR:
        raise ValueError(
            f"gene coverage: {share:.0%} of the protein-coding genes are resolved, expected at "
            f"least {SHARE_FLOOR:.0%}; use human Ensembl ids or current gene symbols; {unknown}"
        )
    if n_genes < GENES_FLOOR:
        raise ValueError(
            f"gene coverage: the median cell expresses {n_genes:.0f} known genes, expected at least "
            f"{GENES_FLOOR}; use the full count matrix, not a few marker genes"
        )
    if share < SHARE_WARNING or n_genes < GENES_WARNING:
        warnings.warn(
            f"low gene coverage: {share:.0%} of the protein-coding genes are resolved and the median "
            f"cell expresses {n_genes:.0f} known genes; calls may be inaccurate",
            UserWarning,
            stacklevel=4,
        )


def _some(names: Sequence[str], n: int = 5) -> str:
    shown = ", ".join(names[:n]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > n else shown
