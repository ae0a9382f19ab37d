"""Survey of each input: labels of its cells, which cells to keep, and a sample of its values."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from langcell.counts.reader import CountMatrix
from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from pretrain.corpus.hf_inputs import read_token_columns
from pretrain.corpus.inputs import CorpusInput
from pretrain.corpus.matrix import open_matrix, read_rows
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.soma_inputs import open_experiment, read_soma_columns
from pretrain.corpus.token_genes import gene_columns, token_genes
from pretrain.corpus.value_histogram import ValueHistogram
from pretrain.recipe.obs_columns import Column, read_obs_columns

# Cell columns of the corpus; "term" comes from the labels.
KEPT = ("term", "study", "donor", "tissue", "disease", "stage", "assay")
_SAMPLE_BLOCK = 64  # cells read contiguously; small, so that a sample covers many donors
_FALSE = ("false", "0", "no")


class RowStatus(IntEnum):
    """Status of a cell; the first that applies."""

    KEPT = 0
    SECONDARY = 1  # not primary data
    UNLABELLED = 2
    UNKNOWN_LABEL = 3  # a label that the ontology does not know
    FEW_GENES = 4
    DUPLICATE = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """Survey of an input, before its cells are tokenised.

    Attributes
    ----------
    rows
        Row of each cell in the source, int64, shape (n_cells,).
    fate
        `RowStatus` of each cell by its labels, uint8, shape (n_cells,).
    columns
        Columns by the names of `KEPT`, shape (n_cells,) each; values of "term" are term ids.
    unresolved
        Number of cells by label that the ontology does not know.
    measured
        Indices of the measured genes in `token_genes`; empty for tokenised inputs.
    places, counts
        Packed histogram of sampled values (`ValueHistogram`).
    is_by_gene
        True if the matrix is stored by gene, so that each opening makes a copy by cell.
    error
        Why the input cannot be read, '' if it can.
    """

    rows: np.ndarray
    fate: np.ndarray
    columns: dict[str, Column]
    unresolved: dict[str, int] = field(default_factory=dict)
    measured: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    is_by_gene: bool = False
    error: str = ""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.rows)

    def write(self, path: Path) -> None:
        """Write the survey atomically."""
        texts = {
            "values": {name: column.values for name, column in self.columns.items()},
            "unresolved": self.unresolved,
            "is_by_gene": self.is_by_gene,
            "error": self.error,
        }
        arrays: dict[str, Any] = {
            f"codes_{name}": column.codes for name, column in self.columns.items()
        }
        arrays |= {name: getattr(self, name) for name in _ARRAYS}
        arrays["texts"] = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
        with replaced_file(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Survey":
        """Read a survey that `write` wrote."""
        with np.load(path) as arrays:
            texts = json.loads(arrays["texts"].tobytes())
            columns = {
                name: Column(codes=arrays[f"codes_{name}"], values=tuple(values))
                for name, values in texts.pop("values").items()
            }
            return cls(columns=columns, **texts, **{name: arrays[name] for name in _ARRAYS})


_ARRAYS = ("rows", "fate", "measured", "places", "counts")


def survey_input(source: CorpusInput, options: BuildOptions, *, sample_cells: int) -> Survey:
    """Read the labels of an input and a sample of its values.

    Parameters
    ----------
    source
        Input to read.
    options
        Options of the build.
    sample_cells
        Cells to sample for the medians; 0 for none.

    Raises
    ------
    ValueError, OSError
        If it cannot be read; the message names it. With `skip_bad` the survey holds the error.
    """
    try:
        return _survey(source, options, sample_cells)
    except (ValueError, OSError) as error:
        if not options.skip_bad:
            raise with_remedy(error) from error
        empty = np.empty(0, dtype=np.int32)
        return Survey(
            rows=np.empty(0, dtype=np.int64),
            fate=np.empty(0, dtype=np.uint8),
            columns={name: Column.constant("", 0) for name in KEPT},
            measured=empty,
            places=empty,
            counts=empty,
            error=str(error),
        )


def with_remedy(error: Exception) -> Exception:
    """Add the remedy to the error of a bad input; other errors are unchanged."""
    if isinstance(error, ValueError):
        return ValueError(f"{error}; {option('skip_bad', True)} leaves such inputs out")
    return error


def _survey(source: CorpusInput, options: BuildOptions, sample_cells: int) -> Survey:
    if source.kind == "tokens":
        rows = np.arange(source.start, source.stop)
        found = read_token_columns(Path(source.path), options.columns, source.start, source.stop)
        return _labelled(source, options, rows, found)
    if source.kind == "soma":
        with open_experiment(source.path) as experiment:
            rows, found = read_soma_columns(
                experiment, options.columns, (source.start, source.stop), options.obs_filter
            )
        survey = _labelled(source, options, rows, found)
        if not len(rows):
            return survey
        with open_matrix(source, options, rows) as matrix:
            return _sampled(survey, matrix, sample_cells)
    with open_matrix(source, options) as matrix:
        found = read_obs_columns(Path(source.path), options.columns)
        survey = _labelled(source, options, np.arange(matrix.n_cells), found)
        return _sampled(survey, matrix, sample_cells)


def _sampled(survey: Survey, matrix: CountMatrix, sample_cells: int) -> Survey:
    """Add the measured genes of an input and the values of a sample of its cells."""
    columns = gene_columns(matrix.resolution.ensembl_ids)
    histogram = ValueHistogram(len(token_genes()))
    for sample in _sample(np.flatnonzero(survey.fate == RowStatus.KEPT), sample_cells):
        for block in read_rows(matrix, sample):
            counts = block.counts
            histogram.add(counts.indptr, counts.indices, counts.data, block.totals, columns)
    places, times = histogram.packed()
    return replace(
        survey,
        measured=np.unique(columns[columns >= 0]).astype(np.int32),
        places=places,
        counts=times,
        is_by_gene=matrix.is_by_gene,
    )


def _labelled(
    source: CorpusInput, options: BuildOptions, rows: np.ndarray, found: dict[str, Column]
) -> Survey:
    """Resolve labels, and choose by them which cells to keep."""
    n_cells = len(rows)
    for name, column in found.items():
        if len(column.codes) != n_cells:
            raise ValueError(
                f"{source.path}: {len(column.codes)} cells in obs ({name}), {n_cells} in the matrix"
            )
    none = Column.constant("", n_cells)
    label = found.get("label", none)
    term, unresolved = _resolve(label, options.ontology)
    fate = np.full(n_cells, RowStatus.KEPT, dtype=np.uint8)
    if not options.keep_unlabelled:
        fate[term.codes < 0] = RowStatus.UNKNOWN_LABEL
        fate[label.codes < 0] = RowStatus.UNLABELLED
    if not options.keep_secondary and "primary" in found:
        fate[_is_false(found["primary"])] = RowStatus.SECONDARY
    columns = {name: found.get(name, none) for name in KEPT} | {"term": term}
    if "study" not in found:
        columns["study"] = Column.constant(Path(source.name).name, n_cells)
    empty = np.empty(0, dtype=np.int32)
    return Survey(
        rows=rows.astype(np.int64),
        fate=fate,
        columns=columns,
        unresolved=unresolved,
        measured=empty,
        places=empty,
        counts=empty,
    )


def _resolve(label: Column, ontology: str) -> tuple[Column, dict[str, int]]:
    """Resolve labels (ids or names) to term ids; count the cells of unresolved labels."""
    resolved = _resolver(ontology).resolve(label.values)
    ids = [each.term_id or "" for each in resolved]
    names = sorted(set(ids) - {""})
    place = {name: code for code, name in enumerate(names)}
    recode = np.array([*(place.get(each, -1) for each in ids), -1], dtype=np.int32)
    sizes = np.bincount(label.codes[label.codes >= 0], minlength=len(label.values))
    unresolved = {label.values[code]: int(sizes[code]) for code, each in enumerate(ids) if not each}
    return Column(codes=recode[label.codes], values=tuple(names)), unresolved


@cache
def open_ontology(name: str) -> Ontology:
    """Return the bundled ontology, or that of an .obo file."""
    return Ontology.bundled() if name == "bundled" else Ontology.from_obo(Path(name).expanduser())


@cache
def _resolver(ontology: str) -> LabelResolver:
    return LabelResolver(open_ontology(ontology))


def _is_false(column: Column) -> np.ndarray:
    wrong = [code for code, value in enumerate(column.values) if value.lower() in _FALSE]
    return np.isin(column.codes, wrong)


def _sample(kept: np.ndarray, n_cells: int) -> Iterator[np.ndarray]:
    """Yield small blocks of kept cells, evenly spaced, about `n_cells` in all."""
    n_blocks = -(-len(kept) // _SAMPLE_BLOCK)
    n_wanted = min(n_blocks, -(-n_cells // _SAMPLE_BLOCK))
    if n_wanted:
        for block in np.unique(np.linspace(0, n_blocks - 1, n_wanted).round().astype(int)):
            yield kept[block * _SAMPLE_BLOCK : (block + 1) * _SAMPLE_BLOCK]
