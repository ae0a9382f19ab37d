"""Training data of baselines: rows of the training split over the genes shared with a file.

A gene that a source did not measure is missing, not zero: baselines use genes measured in the file
and in at least half of the training rows. Missing values are replaced by the mean of the gene, and
totals over all shared genes are estimated from the share of the measured ones.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import sparse

from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from ontology.graph import Ontology
from pretrain.cells.memory_corpus import Corpus, read_corpus
from pretrain.cells.sampling import CellSampler
from pretrain.recipe.config import Recipe
from pretrain.recipe.recipe_file import find_recipe, read_recipe
from pretrain.recipe.sources import find_sources

_MIN_SHARE = 0.5  # of the training rows that must measure a gene
_PER_CELL = 1e4
_STEP = 500  # cells drawn at once
_MIN_DEVIATION = 0.1  # keeps nearly constant genes from being scaled up
_CLIP = 10.0  # standard deviations


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRows:
    """Cells drawn from the training split, as linear values.

    Attributes
    ----------
    values: CSR, shape (n_rows, n_corpus_genes)
    source: row of the corpus' `measured`, shape (n_rows,)
    term: type of each row, among the corpus' `term_ids`, shape (n_rows,)
    """

    values: sparse.csr_matrix
    source: np.ndarray
    term: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Labelled training rows and unlabelled cells of one file, over the same genes.

    Values are log1p counts per 10,000 over the shared genes.

    Attributes
    ----------
    train: float32, shape (n_rows, n_genes); missing values are replaced by the mean
    is_measured: bool, shape (n_rows, n_genes)
    labels: class of each row, shape (n_rows,)
    source: file of the training split behind each row, shape (n_rows,)
    classes: term id of each class
    cells: float32, shape (n_cells, n_genes)
    ensembl_ids: gene of each column
    """

    train: np.ndarray
    is_measured: np.ndarray
    labels: np.ndarray
    source: np.ndarray
    classes: tuple[str, ...]
    cells: np.ndarray
    ensembl_ids: tuple[str, ...]

    def most_variable(self, n_genes: int) -> "Problem":
        """Keep the genes that vary most over the training rows."""
        deviations = _deviations(self.train, self.is_measured)
        kept = np.sort(np.argsort(-deviations, kind="stable")[:n_genes])
        return replace(
            self,
            train=self.train[:, kept],
            is_measured=self.is_measured[:, kept],
            cells=self.cells[:, kept],
            ensembl_ids=tuple(np.array(self.ensembl_ids, dtype=object)[kept]),
        )

    def standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """Return z-scores of training rows and cells, by training means and deviations."""
        centre = self.train.mean(axis=0)
        deviation = np.maximum(_deviations(self.train, self.is_measured), _MIN_DEVIATION)
        train, cells = (
            np.clip((values - centre) / deviation, -_CLIP, _CLIP)
            for values in (self.train, self.cells)
        )
        return train, cells


def bundled_recipe(corpus: Path) -> Recipe:
    """Return the recipe of the bundled model, whose sources are the training split."""
    return read_recipe(find_recipe(Path("corpus")), [f"corpus_root={corpus}"])


def read_training_split(recipe: Recipe, ontology: Ontology) -> Corpus:
    """Read the training files of the recipe."""
    return read_corpus(find_sources(recipe), recipe.columns, ontology)


def drawn_rows(corpus: Corpus, recipe: Recipe, n_cells: int, *, seed: int = 0) -> TrainingRows:
    """Draw cells as in pretraining, balanced over types, but without gene subsets."""
    augmentation = recipe.augmentation.model_copy(update={"subset": 0.0})
    sampler = CellSampler(corpus, augmentation, recipe.balance, seed=seed)
    values, chosen = [], []
    for step in range(-(-n_cells // _STEP)):
        examples = sampler.choose(step, min(_STEP, n_cells - step * _STEP))
        values.append(sampler.draw(examples, step).counts)
        chosen.append(examples)
    examples = np.concatenate(chosen)
    return TrainingRows(
        values=sparse.vstack(values).tocsr(),
        source=corpus.source[examples],
        term=corpus.term[examples],
    )


def make_problem(corpus: Corpus, rows: TrainingRows, file: LabelledFile) -> Problem:
    """Restrict training rows and the labelled cells of a file to their shared genes.

    Raises
    ------
    ValueError
        If they share no gene.
    """
    counts, in_file = _read_cells(file, corpus.ensembl_ids)
    genes = np.flatnonzero(in_file & (corpus.measured[rows.source].mean(axis=0) >= _MIN_SHARE))
    if not len(genes):
        raise ValueError(f"{file.path}: none of its genes is measured by half of the training rows")
    is_measured = corpus.measured[np.ix_(rows.source, genes)]
    train = rows.values[:, genes].toarray()  # (n_rows, n_genes)
    share = _shares(train, is_measured)
    train = _log_per_cell(train, is_measured @ share)
    means = train.sum(axis=0) / np.maximum(is_measured.sum(axis=0), 1)
    train = np.where(is_measured, train, means.astype(np.float32))
    present, labels = np.unique(rows.term, return_inverse=True)
    return Problem(
        train=train,
        is_measured=is_measured,
        labels=labels,
        source=rows.source,
        classes=tuple(corpus.term_ids[each] for each in present),
        cells=_log_per_cell(counts[:, genes].toarray(), np.ones(counts.shape[0])),
        ensembl_ids=tuple(corpus.ensembl_ids[gene] for gene in genes),
    )


def _read_cells(
    file: LabelledFile, ensembl_ids: tuple[str, ...]
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return linear values of the labelled cells over genes, and which genes the file has."""
    column_of = {ensembl_id: column for column, ensembl_id in enumerate(ensembl_ids)}
    with open_counts(file.path, scale=file.scale) as matrix:
        columns = np.array([column_of.get(gene, -1) for gene in matrix.resolution.ensembl_ids])
        known = np.flatnonzero(columns >= 0)
        # Multiplying by this sums columns of the same gene.
        select = sparse.csr_matrix(
            (np.ones(len(known), np.float32), (known, columns[known])),
            shape=(matrix.n_genes, len(ensembl_ids)),
        )
        counts = sparse.vstack([block.counts @ select for block in matrix.blocks()]).tocsr()
    in_file = np.zeros(len(ensembl_ids), dtype=bool)
    in_file[columns[known]] = True
    return counts[np.flatnonzero(file.is_labelled)].astype(np.float32), in_file


def _shares(values: np.ndarray, is_measured: np.ndarray) -> np.ndarray:
    """Return the mean share of each gene in the rows that measure it, shape (n_genes,)."""
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-9)
    mean = shares.sum(axis=0) / np.maximum(is_measured.sum(axis=0), 1)
    return mean / max(float(mean.sum()), 1e-9)


def _deviations(train: np.ndarray, is_measured: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each gene over the rows that measure it."""
    share = np.maximum(is_measured.mean(axis=0, dtype=np.float32), 1e-9)
    return train.std(axis=0) / np.sqrt(share)


def _log_per_cell(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return log1p values per 10,000; `share` is the measured share of each row's total."""
    totals = values.sum(axis=1) / np.maximum(share, 1e-3)
    return np.log1p(values * (_PER_CELL / np.maximum(totals, 1e-9))[:, None]).astype(np.float32)
