"""Search for the cells that fit a text description, and decide which are hits."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.langcell import LangCell
from langcell.runtime.keywords import as_list, options_from, public
from langcell.runtime.parameter_names import option
from langcell.runtime.short_table import ShortTable
from ontology.graph import Ontology
from zeroshot.labels.queries import Query, query_features, read_queries
from zeroshot.retrieval.background import Background, NullDistribution, z_values
from zeroshot.retrieval.false_discovery import ScoreHistogram

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

# Minimum log-odds of a hit. Chosen on the validation studies: the best mean F1 for types that are
# present, with hits for at most 1 % of queries for absent types (`benchmarks.accuracy.search`, which
# measures each study at the floor chosen on the others).
FLOOR = -2.25


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search."""

    top: int = 50  # cells a query that are listed
    fdr: float = 0.05  # false discovery rate up to which a cell is a hit
    floor: float = FLOOR  # log-odds against all other descriptions that a hit must have
    layer: str | None = None  # of the counts; found without
    allow_normalized: bool = False  # accept values that look like log1p or CPM
    device: str = "auto"  # of a model that is given by name
    batch_size: int | None = None  # chosen for the device by default

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"{option('top')} must be at least 1, got {self.top}")
        if not 0 < self.fdr < 1:
            raise ValueError(f"{option('fdr')} must be between 0 and 1, got {self.fdr}")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Found:
    """The cells found for one query.

    Attributes
    ----------
    query: the query
    nearest: name of the query's own or nearest cell type
    n_hits: number of hits in the whole file
    cells: names of the best cells, best first, shape (n_listed,)
    scores: log-odds against all unrelated descriptions
    p_values, fdr: p-values, and Benjamini-Hochberg adjusted over all cells of the file
    is_hit: whether each listed cell is a hit
    """

    query: Query
    nearest: str
    n_hits: int
    cells: np.ndarray
    scores: np.ndarray
    p_values: np.ndarray
    fdr: np.ndarray
    is_hit: np.ndarray

    def __repr__(self) -> str:
        return f"Found({self.query.words!r}: {self.n_hits:,} hits, best cell {self.cells[0]})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SearchResult(ShortTable):
    """What all queries found among `n_cells` cells."""

    n_cells: int
    found: tuple[Found, ...]

    def heading(self) -> str:
        """Return how many cells were searched, and for how many descriptions."""
        return f"{self.n_cells:,} cells searched for {len(self.found)} descriptions"

    def table(self) -> "pd.DataFrame":
        """Return one row per listed cell of each query, best first."""
        import pandas as pd

        return pd.concat(
            pd.DataFrame(
                {
                    "query": each.query.words,
                    "ontology_term_id": each.query.term_id,
                    "rank": np.arange(1, len(each.cells) + 1),
                    "cell": each.cells,
                    "score": each.scores,
                    "z": np.round(z_values(each.p_values), 3),
                    "p": each.p_values,
                    "fdr": each.fdr,
                    "hit": each.is_hit,
                }
            )
            for each in self.found
        ).reset_index(drop=True)

    def summary(self) -> "pd.DataFrame":
        """Return one row per query: how it was read, its hits and its best cell."""
        import pandas as pd

        return pd.DataFrame(
            {
                "query": each.query.words,
                "read_as": each.query.term_id or "free text",
                "nearest": each.nearest,
                "hits": str(each.n_hits) if each.n_hits else "none",
                "best_cell": each.cells[0],
                "score": each.scores[0],
                "fdr": each.fdr[0],
            }
            for each in self.found
        )


@public
def search(
    adata: "AnnData | MuData | str | Path",
    queries: str | Sequence[str],
    *,
    model: LangCell | str | Path = "mini-fast",
    top: int = 50,
    fdr: float = 0.05,
    floor: float = FLOOR,
    key_added: str | None = None,
    layer: str | None = None,
    allow_normalized: bool = False,
    modality: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    options: SearchOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Find the cells that fit descriptions, and decide whether any do.

    A cell is a hit if its false discovery rate is at most `fdr` and its score at least `floor`. The
    score is the log-odds of the query against all other cell types
    (`zeroshot.retrieval.background.Background`); the p-value is the share of unrelated pairs of
    description and reference cell that score as high. A file is read in flat memory.

    Parameters
    ----------
    adata
        AnnData or MuData with raw counts, or path of an .h5ad, .zarr, 10x .h5 or 10x folder.
    queries
        Names, synonyms or ids of cell types, or any words; a list, or one string with semicolons.
    model
        A model, or the name, folder or hub id of one.
    top
        Cells listed for each query.
    fdr
        False discovery rate up to which a cell is a hit.
    floor
        Least log-odds of a hit.
    key_added
        Of an AnnData: uns gets the table under this name, and obs a column of scores for each query,
        "<key_added>_<query>".
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    modality
        Modality of a MuData with the counts of RNA.
    batch_size
        Cells encoded at once; chosen for the device by default.
    options
        A `SearchOptions` in place of its single keywords.
    progress
        Called after each block with the number of cells done and of all cells.

    Returns
    -------
    SearchResult
        Shows itself as a row for each query; `table()` has the listed cells.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.search(adata, ["exhausted CD8 T cell", "NK cell"])  # doctest: +SKIP
    """
    options = options_from(SearchOptions, options, locals())
    source = modality_of(adata, modality)
    if key_added is not None and isinstance(source, str | Path):
        raise ValueError("key_added needs an AnnData; for a file use the returned table")
    ontology = Ontology.bundled()
    asked = read_queries(as_list(queries), ontology)
    with open_counts(
        source, layer=options.layer, allow_normalized=options.allow_normalized
    ) as matrix:
        if not isinstance(model, LangCell):
            model = LangCell.from_pretrained(model, device=options.device)
        model.config.check_has_texts()
        if model.reference is None:
            raise ValueError(
                "this model has no reference cells (reference.safetensors), which hits need; "
                f"pass {option('model', 'mini-fast')} or {option('model', 'mini')}"
            )
        searcher = _Searcher(asked, Background(model, ontology), model, options)
        columns = []
        for block in embed_cells(model, matrix, batch_size=options.batch_size):
            scores = searcher.add(block.start, block.features)
            if key_added is not None:
                columns.append(scores)
            if progress is not None:
                progress(block.start + len(block.features), matrix.n_cells)
        null = searcher.background.null(model.reference.features.astype(np.float32))
        result = searcher.result(null, matrix.n_cells, matrix.obs_names)
    if key_added is not None and not isinstance(source, str | Path):
        _store(source, key_added, result, np.concatenate(columns))
    return result


class _Searcher:
    """Scores cells block by block; keeps a histogram of scores and the best cells."""

    def __init__(
        self,
        queries: tuple[Query, ...],
        background: Background,
        model: LangCell,
        options: SearchOptions,
    ) -> None:
        self.background = background
        self._queries, self._options = queries, options
        self._features = query_features(queries, model)
        self._nearest = background.nearest(queries, self._features)
        self._counts = ScoreHistogram(len(queries))
        self._rows = [np.empty(0, dtype=np.int64) for _ in queries]
        self._scores = [np.empty(0) for _ in queries]

    def add(self, start: int, cells: np.ndarray) -> np.ndarray:
        """Score the block of cells that starts at row `start`; return (n_cells, n_queries)."""
        scores = self.background.scores(cells, self._features, self._nearest)
        self._counts.add(scores)
        rows = np.arange(start, start + len(cells))
        for query in range(len(self._queries)):
            rows_so_far = np.concatenate([self._rows[query], rows])
            so_far = np.concatenate([self._scores[query], scores[:, query]])
            best = np.lexsort((rows_so_far, -so_far))[: self._options.top]
            self._rows[query], self._scores[query] = rows_so_far[best], so_far[best]
        return scores

    def result(self, null: NullDistribution, n_cells: int, names: np.ndarray) -> SearchResult:
        """Return the best cells and the hits of each query."""
        max_fdr, floor = self._options.fdr, self._options.floor
        found = []
        for number, (query, rows, scores) in enumerate(
            zip(self._queries, self._rows, self._scores, strict=True)
        ):
            fdr = self._counts.false_discovery_rates(number, scores, null)
            found.append(
                Found(
                    query=query,
                    nearest=self.background.names[self._nearest[number]],
                    n_hits=self._counts.n_hits(number, null, max_fdr=max_fdr, floor=floor),
                    cells=names[rows],
                    scores=scores,
                    p_values=null.p_values(scores),
                    fdr=fdr,
                    is_hit=(fdr <= max_fdr) & (scores >= floor),
                )
            )
        return SearchResult(n_cells=n_cells, found=tuple(found))


def _store(adata: "AnnData", key: str, result: SearchResult, scores: np.ndarray) -> None:
    table = result.table()
    table.index = table.index.astype(str)  # AnnData needs a string index in uns
    adata.uns[key] = table
    for column, each in enumerate(result.found):
        words = re.sub(r"\W+", "_", each.query.words).strip("_")
        adata.obs[f"{key}_{words}"] = scores[:, column].astype(np.float32)
