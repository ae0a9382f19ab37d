"""Gene vocabulary of a model: token ids and corpus medians, stored in genes.tsv."""

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from langcell.genes.gene_table import GeneResolution as GeneResolution
from langcell.genes.gene_table import GeneTable as GeneTable

_COLUMNS = ("ensembl_id", "symbol", "median", "token_id")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GeneVocabulary:
    """The genes of a model with their token ids, numbered as in LangCell and Geneformer.

    Token 0 is padding, token 1 is the mask, gene i is token i + 2 and the class token is the last.

    Attributes
    ----------
    ensembl_ids : unique ids without version.
    symbols : one per gene, '' if it has none.
    medians : float64, shape (n_genes,); median over the corpus of the gene's nonzero counts
        per 10,000.
    gene_tokens : int64, shape (n_genes,); a permutation of 2 .. n_genes + 1.
    """

    ensembl_ids: tuple[str, ...]
    symbols: tuple[str, ...]
    medians: np.ndarray
    gene_tokens: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    pad_id = 0
    mask_id = 1

    def __post_init__(self) -> None:
        expected = np.arange(2, self.n_genes + 2)
        if len(self.gene_tokens) == 0:
            object.__setattr__(self, "gene_tokens", expected)
        lengths = {len(self.symbols), len(self.medians), len(self.gene_tokens)}
        if lengths != {self.n_genes}:
            raise ValueError(
                f"symbols, medians and tokens must have length {self.n_genes}, got {lengths}"
            )
        if len(set(self.ensembl_ids)) != self.n_genes:
            raise ValueError("a vocabulary must hold each Ensembl id only once")
        if not (np.isfinite(self.medians).all() and (np.asarray(self.medians) > 0).all()):
            raise ValueError("the medians of a vocabulary must be positive and finite")
        if not np.array_equal(np.sort(self.gene_tokens), expected):
            raise ValueError(f"the token ids of genes must be 2 to {self.n_genes + 1}, each once")

    def __repr__(self) -> str:
        return f"GeneVocabulary({self.n_genes:,} genes)"

    @property
    def n_genes(self) -> int:
        """Count the genes."""
        return len(self.ensembl_ids)

    @property
    def cls_id(self) -> int:
        """Return the class token, which precedes the genes of a cell."""
        return self.n_genes + 2

    @property
    def eos_id(self) -> int:
        """Return the end token, which follows the genes in some models; not counted in `size`."""
        return self.n_genes + 3

    @property
    def size(self) -> int:
        """Count all tokens: genes, pad, mask and class."""
        return self.n_genes + 3

    @cached_property
    def token_medians(self) -> np.ndarray:
        """Medians by token id, float64, shape (size,); NaN for the special tokens."""
        medians = np.full(self.size, np.nan)
        medians[self.gene_tokens] = self.medians
        return medians

    @cached_property
    def _token_of_id(self) -> dict[str, int]:
        tokens = dict(zip(self.ensembl_ids, self.gene_tokens.tolist(), strict=True))
        table = GeneTable.bundled()
        for ensembl_id in self.ensembl_ids:
            # An old vocabulary may hold ids that have been replaced since.
            if ensembl_id not in table:
                tokens.setdefault(table.current_id(ensembl_id), tokens[ensembl_id])
        return tokens

    def token_ids(self, ensembl_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the token of each Ensembl id, -1 if unknown; int64, shape (n_ids,)."""
        token_of_id = self._token_of_id
        return np.array([token_of_id.get(name, -1) for name in ensembl_ids], dtype=np.int64)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "GeneVocabulary":
        """Read a tab-separated table with a header: ensembl_id, symbol, median[, token_id].

        Raises
        ------
        ValueError
            If a column is missing or a value is invalid.
        """
        content = Path(path).read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
        header, *lines = text.splitlines()
        columns = header.split("\t")
        missing = [name for name in _COLUMNS[:3] if name not in columns]
        if missing:
            raise ValueError(
                f"{path}: column {missing[0]!r} is missing; a gene vocabulary has {_COLUMNS[:3]}"
            )
        rows = [line.split("\t") for line in lines]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(
                f"{path}: a row does not have the {len(columns)} columns of the header"
            )
        values = {name: [row[number] for row in rows] for number, name in enumerate(columns)}
        return cls(
            ensembl_ids=tuple(values["ensembl_id"]),
            symbols=tuple(values["symbol"]),
            medians=np.array(values["median"], dtype=np.float64),
            gene_tokens=np.array(values.get("token_id", []), dtype=np.int64),
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table with medians at full precision; token ids only if not in order."""
        in_order = np.array_equal(self.gene_tokens, np.arange(2, self.n_genes + 2))
        lines = ["\t".join(_COLUMNS[:3] if in_order else _COLUMNS)]
        for number, ensembl_id in enumerate(self.ensembl_ids):
            row = [ensembl_id, self.symbols[number], repr(float(self.medians[number]))]
            lines.append("\t".join(row if in_order else [*row, str(self.gene_tokens[number])]))
        Path(path).write_text("\n".join(lines) + "\n")
