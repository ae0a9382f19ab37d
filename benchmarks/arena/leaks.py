"""Find leaks: test data that an annotator may have seen in training.

Four things are compared with the training data: studies, cells (the same top genes in the same
order), donor names, and, for marker lists, the atlases that they were derived from. Training data
that is not documented, as for most language models, cannot be checked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.data.marker_lists import MarkerLists
from benchmarks.data.studies import SCALES, LabelledFile
from langcell.counts.obs_columns import obs_columns, read_obs_column
from langcell.counts.reader import open_counts
from langcell.counts.scale import Scale

_TOP_GENES = 20  # of a cell; different cells do not share them in order
_MIN_GENES = 200  # that two files must share to be compared
_MIN_SHARE = 0.01  # of a file's cells that counts as a leak, not chance
_DONORS = ("donor", "donor_id")
# Atlas of the lists of a source (and tissue), as words in names of training files and studies.
_ATLASES: Mapping[tuple[str, str], str] = {
    ("tabulasapiens", ""): "tabula.sapiens",
    ("HCL", ""): "human cell landscape",
    ("HCA", ""): "_hca\\b|hca census",
    ("Azimuth", "Fetal Development"): "descartes|atlas of fetal gene expression",
    ("Azimuth", "Motor Cortex"): "allen",
}


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """Training data of an annotator.

    Attributes
    ----------
    sources: name of each training file and its study, as one line
    cells: training files of single cells, with their scales
    """

    sources: tuple[str, ...] = ()
    cells: Mapping[Path, Scale] = field(default_factory=dict)

    def names(self, study: str) -> bool:
        """Tell whether a study is among the sources.

        A name with a year matches a source that has all its words ("Zheng 2017"); other names ("pbmc",
        as a user's file may be called) must equal the name of a file or study.
        """
        words, name = _words(study), study.strip().lower()
        if any(word.isdigit() for word in words) and len(words) > 1:
            return any(words <= _words(each) for each in self.sources)
        return any(name in each.lower().split(" ", 1) for each in self.sources)


def trained_on(corpus: Path, names: Sequence[str]) -> TrainedOn:
    """Read the training data of files from the manifest of a corpus.

    Parameters
    ----------
    corpus: folder; without a manifest only the names are known
    names: names of the files, without suffix
    """
    manifest = corpus / "manifest.tsv"
    if not manifest.is_file():
        return TrainedOn(sources=tuple(names))
    table = pd.read_csv(manifest, sep="\t", dtype=str).set_index("name")
    known = [name for name in names if name in table.index]
    cells = {
        corpus / "train" / "cells" / f"{name}.h5ad": cast(
            Scale, SCALES.get(table.scale[name], table.scale[name])
        )
        for name in known
        if (corpus / "train" / "cells" / f"{name}.h5ad").is_file()
    }
    return TrainedOn(
        sources=tuple(f"{name} {table.study[name]}" if name in known else name for name in names),
        cells=cells,
    )


class CellLeaks:
    """Find leaks of files of cells."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, tuple[str, ...]], str] = {}
        self._training: dict[Path, _TopGenes] = {}

    def of(self, known: TrainedOn | None, file: LabelledFile) -> str:
        """Return how a file leaks to an annotator, '' if no leak was found."""
        if known is None:
            return ""
        key = file.path, known.sources
        if key not in self._found:
            self._found[key] = self._find(known, file)
        return self._found[key]

    def _find(self, known: TrainedOn, file: LabelledFile) -> str:
        if known.names(file.study):
            return "study in training"
        own, donors = _TopGenes.read(file.path, file.scale), _donors(file.path)
        for path, scale in known.cells.items():
            if path not in self._training:
                self._training[path] = _TopGenes.read(path, scale)
            if own.share_in(self._training[path]) >= _MIN_SHARE:
                return f"cells of {path.stem}"
            if donors & _donors(path):
                return f"donors of {path.stem}"
        return ""


class ListLeaks:
    """Find leaks of marker lists whose atlas an annotator was trained on."""

    def of(self, known: TrainedOn | None, lists: MarkerLists) -> np.ndarray:
        """Return how each list leaks, '' if no leak was found, object, shape (n_lists,)."""
        found = np.full(len(lists), "", dtype=object)
        if known is None:
            return found
        for (source, tissue), words in _ATLASES.items():
            pattern = re.compile(words, re.IGNORECASE)
            if any(pattern.search(each) for each in known.sources):
                of_atlas = (lists.datasets == source) & ((lists.tissues == tissue) | (tissue == ""))
                found[of_atlas] = "atlas in training"
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _TopGenes:
    """Cells of a file over its measured genes.

    Attributes
    ----------
    genes: Ensembl ids, sorted
    values: CSR, shape (n_cells, n_genes)
    """

    genes: np.ndarray
    values: sparse.csr_matrix

    @classmethod
    def read(cls, path: Path, scale: Scale) -> "_TopGenes":
        with open_counts(path, scale=scale) as matrix:
            ids = matrix.resolution.ensembl_ids.astype(str)
            values = sparse.vstack([block.counts for block in matrix.blocks()]).tocsr()
        columns = np.flatnonzero(ids != "")
        genes, first = np.unique(ids[columns], return_index=True)
        return cls(genes=genes, values=values[:, columns[first]])

    def share_in(self, other: "_TopGenes") -> float:
        """Return the share of cells that another file has too, by the genes that both measure."""
        shared, own, others = np.intersect1d(self.genes, other.genes, return_indices=True)
        if len(shared) < _MIN_GENES:
            return 0.0
        keys = [key for key in _signatures(self.values[:, own]) if key]
        theirs = set(_signatures(other.values[:, others]))
        return sum(key in theirs for key in keys) / len(keys) if keys else 0.0


def _signatures(values: sparse.csr_matrix) -> list[bytes]:
    """Return the top genes of each cell in order, empty if there are too few."""
    found = []
    for start, stop in zip(values.indptr[:-1], values.indptr[1:], strict=True):
        genes = values.indices[start:stop]
        top = genes[np.lexsort((genes, -values.data[start:stop]))[:_TOP_GENES]]
        found.append(top.tobytes() if len(top) == _TOP_GENES else b"")
    return found


def _donors(path: Path) -> set[str]:
    """Return donor names that are more than a number or letter."""
    for column in _DONORS:
        if column in obs_columns(path):
            return {each for each in read_obs_column(path, column) if len(str(each)) > 4}
    return set()


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]{3,}|\d{4}", text.lower()))
