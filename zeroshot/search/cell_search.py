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
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.labels.queries import Query, query_features, read_queries
from zeroshot.search.background import Background, NullDistribution, z_values
from zeroshot.search.false_discovery import ScoreHistogram

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
    device: str = "cpu"  # of a model that is given by name
    batch_size: int | None = None  # chosen for the device by default

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"{option('top')} must be at least 1, got {self.top}")
        if not 0 < self.fdr < 1:
            raise ValueError(f"{option('fdr')} must be between 0 and 1, got {self.fdr}")


@dataclass(frozen=True, kw_only=True, eq=False)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """The results of all queries in a file with `n_cells` cells."""

    n_cells: int
    found: tuple[Found, ...]

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


def search(
    source: "AnnData | MuData | str | Path",
    queries: str | Sequence[str],
    *,
    model: LangCell | str | Path = "mini-fast",
    key_added: str | None = None,
    modality: str | None = None,
    options: SearchOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Rank the cells of a file by how well they fit descriptions, and say which do.

    A cell is a hit where its false discovery rate is at most `options.fdr` and its score at least
    `options.floor`. The score is what `zeroshot.search.background.Background` calls the log-odds of the
    query; the p-value is the share of unrelated pairs of description and reference cell (which
    travel with the model) that score as high. Peak memory does not depend on the number of cells
    when `source` is a file.

    Parameters
    ----------
    source: .h5ad, .zarr, 10x .h5, 10x folder, AnnData or MuData
    queries: names, synonyms or ids of cell types, or free text
    model: a model with reference cells, or the name, folder or hub id of one
    key_added: of an AnnData: uns gets the table under this name, obs a column of scores for each
        query, "<key_added>_<query>"
    modality: of a MuData, the one with counts of RNA
    options: how to search
    progress: called after each block with the number of cells done so far and of all cells

    Raises
    ------
    ValueError, OSError
        With one line that says what is wrong with the input, the queries or the model.
    """
    options, source = options or SearchOptions(), modality_of(source, modality)
    if key_added is not None and isinstance(source, str | Path):
        raise ValueError("key_added needs an AnnData; for a file use the returned table")
    ontology = Ontology.bundled()
    asked = read_queries([queries] if isinstance(queries, str) else queries, ontology)
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
