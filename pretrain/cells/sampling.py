"""Sample training cells: choose corpus rows, and draw a random cell from each.

Everything is a pure function of (seed, step, index, view), so a resumed run sees the same cells as
an uninterrupted one.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pretrain.cells.mean_expression import gene_variability, type_means
from pretrain.cells.memory_corpus import Corpus
from pretrain.cells.sampling_kernel import AS_IS, DETECT, POISSON, THIN, sample_cell
from pretrain.recipe.cell_config import Augmentation, Balance

# A cell with fewer genes does not identify its type; it is drawn again with all genes.
MIN_GENES = 20
# Third number of the seed sequences, so that each use has its own random stream.
_CHOICE, _CELL, _BANK = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledCells:
    """Cells of one step.

    Attributes
    ----------
    examples
        Corpus row of each cell, shape (n_cells,).
    counts
        Drawn values, CSR float32, shape (n_cells, n_genes).
    measured
        True where the gene counts as measured in the cell, shape (n_cells, n_genes).
    """

    examples: np.ndarray
    counts: sparse.csr_matrix
    measured: np.ndarray


def example_weights(corpus: Corpus, balance: Balance) -> np.ndarray:
    """Return the probability of drawing each example, shape (n_examples,).

    The weight of a type is its number of studies to the power `type_power`; its studies have equal
    weight, and so have the examples of a study. Without `by_type` all examples have equal weight.
    The share of a study is capped at `study_share`.
    """
    pairs, pair, sizes = np.unique(
        corpus.term.astype(np.int64) * len(corpus.studies) + corpus.study,
        return_inverse=True,
        return_counts=True,
    )
    term, study = np.divmod(pairs, len(corpus.studies))
    return pair_weights(term, study, sizes, balance)[pair]


def pair_weights(
    term: np.ndarray, study: np.ndarray, sizes: np.ndarray, balance: Balance
) -> np.ndarray:
    """Return the probability of one example of each (type, study), see `example_weights`.

    Parameters
    ----------
    term, study
        Type and study of each pair, shape (n_pairs,); pairs are distinct.
    sizes
        Number of examples of each pair.
    balance
        Settings of the recipe.

    Returns
    -------
    numpy.ndarray
        Shape (n_pairs,); the sum of the product with `sizes` is 1.
    """
    shares = sizes.astype(np.float64)
    if balance.by_type:
        n_studies = np.bincount(term)
        shares = 1.0 / n_studies[term] ** (1 - balance.type_power)
    return _cap_studies(shares / shares.sum(), study, study.max() + 1, balance.study_share) / sizes


def gene_subsets(variability: np.ndarray, augmentation: Augmentation, seed: int) -> np.ndarray:
    """Return random gene sets that a study might have measured, bool, shape (n_subsets, n_genes).

    Published files often hold 1,000 to 6,000 variable genes. Sizes are log-uniform; the preference
    for variable genes is random, from none to strong.
    """
    rng = np.random.default_rng([seed, 0, _BANK])
    n_genes = len(variability)
    low, high = np.minimum(augmentation.subset_genes, n_genes)
    subsets = np.zeros((augmentation.subset_bank, n_genes), dtype=bool)
    preference = np.log(np.maximum(variability, 1e-6))
    for subset in subsets:
        size = int(np.exp(rng.uniform(np.log(low), np.log(high))))
        scores = rng.uniform(0, 3) * preference + rng.gumbel(size=n_genes)
        subset[np.argpartition(-scores, size - 1)[:size]] = True
    return subsets


class CellSampler:
    """Draws the cells of each step.

    Parameters
    ----------
    corpus
        Corpus to draw from.
    augmentation, balance
        Settings of the recipe.
    seed
        Seed; with the step it determines every draw.
    """

    def __init__(
        self, corpus: Corpus, augmentation: Augmentation, balance: Balance, *, seed: int
    ) -> None:
        self.corpus = corpus
        self.augmentation = augmentation
        self.seed = seed
        weights = example_weights(corpus, balance)
        self._cumulative = np.cumsum(weights) / weights.sum()
        self._totals = np.asarray(corpus.values.sum(axis=1, dtype=np.float64)).ravel()
        self._subsets = gene_subsets(gene_variability(type_means(corpus)), augmentation, seed)
        longest = int(np.diff(corpus.values.indptr).max())
        self._columns = np.empty(longest, np.int32)
        self._values = np.empty(longest, np.float32)

    def choose(self, step: int, n_cells: int) -> np.ndarray:
        """Return the corpus rows of a step, shape (n_cells,)."""
        points = np.random.default_rng([self.seed, step, _CHOICE]).random(n_cells)
        return np.searchsorted(self._cumulative, points, side="right").clip(
            max=self.corpus.n_examples - 1
        )

    def draw(
        self, examples: np.ndarray, step: int, *, view: int = 0, first: int = 0
    ) -> SampledCells:
        """Draw a cell from each corpus row; two views of a step are independent draws.

        `first` is the index of the first example in the step, so that a cell does not depend on the
        process that draws it.
        """
        measured = self.corpus.measured[self.corpus.source[examples]]
        columns, values, lengths = [], [], []
        for index, example in enumerate(examples):
            rng = np.random.default_rng([self.seed, step, _CELL, first + index, view])
            n = self._draw_one(int(example), measured[index], rng)
            columns.append(self._columns[:n].copy())
            values.append(self._values[:n].copy())
            lengths.append(n)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        counts = sparse.csr_matrix(
            (np.concatenate(values), np.concatenate(columns), indptr), shape=measured.shape
        )
        return SampledCells(examples=examples, counts=counts, measured=measured)

    def _draw_one(self, example: int, measured: np.ndarray, rng: np.random.Generator) -> int:
        """Draw one cell into the buffers; `measured` is updated if a gene subset is drawn."""
        augmentation = self.augmentation
        loss = rng.uniform(0, augmentation.gene_dropout)
        if rng.random() < augmentation.subset:
            kept = measured & self._subsets[rng.integers(len(self._subsets))]
            n = self._fill(example, kept, rng, loss)
            if n >= MIN_GENES:
                measured[:] = kept
                return n
        return self._fill(example, measured, rng, loss)

    def _fill(
        self, example: int, measured: np.ndarray, rng: np.random.Generator, loss: float
    ) -> int:
        mode, rate, overdispersion = self._sampling_mode(example, rng)
        start, stop = self.corpus.values.indptr[example : example + 2]
        return sample_cell(
            rng,
            self.corpus.values.indices[start:stop],
            self.corpus.values.data[start:stop],
            measured,
            mode,
            rate,
            overdispersion,
            loss,
            self._columns,
            self._values,
        )

    def _sampling_mode(self, example: int, rng: np.random.Generator) -> tuple[int, float, float]:
        """Choose the sampling mode of a row, its rate and its overdispersion."""
        source = self.corpus.source[example]
        file = self.corpus.sources[source]
        augmentation = self.augmentation
        low, high = np.log(augmentation.depth)
        rate = float(np.exp(rng.uniform(low, high)) / max(self._totals[example], 1e-12))
        if file.is_profile:
            mode = DETECT if file.scale == "ranks" else POISSON
            return mode, rate, augmentation.overdispersion
        if file.scale == "ranks" or rng.random() >= augmentation.thin:
            return AS_IS, 1.0, 0.0
        if self.corpus.is_integral[source]:
            return THIN, float(rng.uniform(*augmentation.thin_to)), 0.0
        # TPM of a deep protocol become counts of a shallow one; the cell has its own overdispersion.
        return POISSON, rate, 0.0


def _cap_studies(
    weights: np.ndarray, study: np.ndarray, n_studies: int, share: float
) -> np.ndarray:
    """Cap each study at `share` of the draws and scale up the others in proportion."""
    shares = np.bincount(study, weights, minlength=n_studies)
    capped = np.zeros(n_studies, dtype=bool)
    wanted = shares.copy()
    while (over := (wanted > share + 1e-12) & ~capped).any():
        capped |= over
        free = 1 - share * capped.sum()
        if free <= 0 or not shares[~capped].sum():
            return weights  # too few studies for the cap
        wanted = np.where(capped, share, shares / shares[~capped].sum() * free)
    return weights * (wanted / np.maximum(shares, 1e-300))[study]
