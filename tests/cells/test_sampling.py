"""Training examples: how often each comes, what is done to it, and that the seed settles it all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from langcell.genes.gene_table import GeneTable
from pretrain.cells.memory_corpus import Corpus, spread_ranks
from pretrain.cells.sampling import CellSampler, example_weights, gene_subsets
from pretrain.cells.vocabulary import build_vocabulary
from pretrain.recipe.cell_config import Augmentation, Balance, Vocabulary
from pretrain.recipe.sources import SourceFile

N_GENES = 400
PLAIN: dict[str, Any] = {"subset": 0, "gene_dropout": 0, "thin": 0, "overdispersion": 0}


def make_corpus(*, n_examples: int = 60, scale: str = "counts", is_profile: bool = False) -> Corpus:
    """Two sources, three types, values from 1 to 2,000; the second source lacks half the genes."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 2000, (n_examples, N_GENES)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = 0
    source = np.arange(n_examples) % 2
    values[source == 1, N_GENES // 2 :] = 0
    measured = np.ones((2, N_GENES), bool)
    measured[1, N_GENES // 2 :] = False
    table = GeneTable.bundled()
    files = tuple(
        SourceFile(path=Path(name), is_profile=is_profile, scale=scale)  # type: ignore[arg-type]
        for name in ("a.h5ad", "b.h5ad")
    )
    return Corpus(
        values=sparse.csr_matrix(values),
        ensembl_ids=tuple(table.ensembl_ids[table.is_protein_coding][:N_GENES]),
        measured=measured,
        sources=files,
        source=source,
        term=np.arange(n_examples) % 3,
        study=source,
        aspect=np.zeros(n_examples, int),
        is_integral=np.array([scale == "counts"] * 2),
        term_ids=("CL:0000084", "CL:0000236", "CL:0000540"),
        studies=("a", "b"),
        aspects=(("", "", ""),),
        reports=(),
    )


def sampler(corpus: Corpus, **changes: Any) -> CellSampler:
    return CellSampler(corpus, Augmentation(**{**PLAIN, **changes}), Balance(study_share=1), seed=5)


def test_types_weigh_by_studies_and_studies_by_themselves() -> None:
    corpus = make_corpus(n_examples=12)
    changes = {
        # Type 0: one example of study 0 and nine of study 1. Types 1 and 2: one of study 0 each.
        "term": np.array([0] * 10 + [1, 2]),
        "study": np.array([0] + [1] * 9 + [0, 0]),
    }
    corpus = Corpus(**{**vars(corpus), **changes})
    weights = example_weights(corpus, Balance(type_power=0.5, study_share=1))
    by_type = np.bincount(corpus.term, weights)
    assert by_type[0] / by_type[1] == pytest.approx(np.sqrt(2))
    assert weights[0] == pytest.approx(weights[1:10].sum())
    capped = example_weights(corpus, Balance(type_power=0.5, study_share=0.6))
    assert np.bincount(corpus.study, capped).max() == pytest.approx(0.6)
    assert capped.sum() == pytest.approx(1)
    even = example_weights(corpus, Balance(by_type=False, study_share=1))
    np.testing.assert_allclose(even, 1 / 12)


def test_draws_depend_on_seed_step_index_and_view_alone() -> None:
    corpus = make_corpus(is_profile=True)
    drawer = sampler(corpus, subset=0.5, gene_dropout=0.2, overdispersion=0.5)
    rows = drawer.choose(3, 16)
    first = drawer.draw(rows, 3)
    drawer.draw(drawer.choose(4, 16), 4)
    again = sampler(corpus, subset=0.5, gene_dropout=0.2, overdispersion=0.5)
    assert (again.choose(3, 16) == rows).all()
    assert (again.draw(rows, 3).counts != first.counts).nnz == 0
    assert (again.draw(rows[:4], 3).counts != first.counts[:4]).nnz == 0
    assert (again.draw(rows, 3, view=1).counts != first.counts).nnz > 0
    assert (drawer.choose(4, 16) != rows).any()


def test_a_profile_gives_counts_in_its_proportions_at_the_depth_asked_for() -> None:
    corpus = make_corpus(is_profile=True)
    depth = 50000
    drawer = sampler(corpus, depth=(depth, depth))
    rows = np.zeros(200, int)
    counts = drawer.draw(rows, 0).counts
    assert (counts.data == np.rint(counts.data)).all()
    mean = np.asarray(counts.mean(axis=0)).ravel()
    row = corpus.values[0].toarray().ravel()
    rates = depth * row / row.sum()
    # The mean of 200 Poisson draws, five standard errors.
    assert np.abs(mean - rates).max() < 5 * np.sqrt(rates.max() / 200)
    variance = np.asarray(counts.multiply(counts).mean(axis=0)).ravel() - mean**2
    assert np.median(variance[rates > 0] / mean[rates > 0]) == pytest.approx(1, abs=0.15)


def test_overdispersion_is_the_squared_coefficient_of_variation() -> None:
    corpus = make_corpus(is_profile=True)
    drawer = sampler(corpus, depth=(1e6, 1e6), overdispersion=0.25)
    counts = drawer.draw(np.zeros(400, int), 0).counts.toarray()
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    seen = mean > 0
    cv2 = (variance[seen] - mean[seen]) / mean[seen] ** 2
    assert np.median(cv2) == pytest.approx(0.25, rel=0.15)


def test_cells_stay_as_they_are_or_are_thinned() -> None:
    corpus = make_corpus()
    rows = np.arange(20)
    assert (sampler(corpus).draw(rows, 0).counts != corpus.values[rows]).nnz == 0
    thinned = sampler(corpus, thin=1, thin_to=(0.5, 0.5)).draw(rows, 0).counts
    assert (thinned.toarray() <= corpus.values[rows].toarray()).all()
    assert thinned.sum() / corpus.values[rows].sum() == pytest.approx(0.5, abs=0.01)


def test_ranks_are_never_counted_and_keep_their_order() -> None:
    corpus = make_corpus(scale="ranks", is_profile=True)
    counts = sampler(corpus, depth=(2000, 2000)).draw(np.arange(10), 0).counts
    for row in range(10):
        drawn = counts[row]
        true = corpus.values[row].toarray().ravel()[drawn.indices]
        assert (drawn.data == true).all()
        assert 0 < drawn.nnz < corpus.values[row].nnz  # weak genes are not detected


def test_subsets_narrow_what_is_measured() -> None:
    corpus = make_corpus()
    drawn = sampler(corpus, subset=1, subset_genes=(100, 300)).draw(np.arange(40), 0)
    assert (drawn.measured <= corpus.measured[corpus.source[:40]]).all()
    assert (drawn.counts.toarray()[~drawn.measured] == 0).all()
    assert len({row.tobytes() for row in drawn.measured}) > 20
    whole = sampler(corpus).draw(np.arange(40), 0)
    assert (whole.measured == corpus.measured[corpus.source[:40]]).all()


def test_subsets_have_the_sizes_asked_for_and_like_variable_genes() -> None:
    variability = np.linspace(0.01, 2, N_GENES)
    augmentation = Augmentation(subset_genes=(50, 200), subset_bank=300)
    subsets = gene_subsets(variability, augmentation, seed=0)
    sizes = subsets.sum(axis=1)
    assert sizes.min() >= 50
    assert sizes.max() <= 200
    assert subsets[:, N_GENES // 2 :].sum() > 1.5 * subsets[:, : N_GENES // 2].sum()


def test_spread_ranks_keep_the_order_and_take_the_scale_of_the_reference() -> None:
    values = sparse.csr_matrix(np.array([[3.0, 9.0, 5.0, 0.0], [0.0, 2.0, 0.0, 1.0]], np.float32))
    spread = spread_ranks(values, np.array([100.0, 50.0, 10.0, 5.0]))
    assert spread.toarray()[0].tolist() == [5, 100, 10, 0]
    assert spread.toarray()[1].tolist() == [0, 50, 0, 5]


def test_medians_are_those_of_the_drawn_values() -> None:
    corpus = make_corpus()
    settings = Vocabulary(min_sources=1, n_draws=1500, min_observations=5)
    augmentation = Augmentation(**PLAIN)
    vocabulary = build_vocabulary(corpus, settings, augmentation, Balance(study_share=1), seed=5)
    rows = sampler(corpus).choose(0, 1000).tolist() + sampler(corpus).choose(1, 500).tolist()
    values = corpus.values[rows].toarray()
    values = values / values.sum(axis=1, keepdims=True) * 1e4
    for gene in (0, 17, 399):
        nonzero = values[:, gene][values[:, gene] > 0]
        place = vocabulary.ensembl_ids.index(corpus.ensembl_ids[gene])
        assert vocabulary.medians[place] == pytest.approx(np.median(nonzero), rel=1e-5)


def test_genes_that_few_sources_measure_are_left_out() -> None:
    settings = Vocabulary(min_sources=2, n_draws=500, min_observations=5)
    vocabulary = build_vocabulary(
        make_corpus(), settings, Augmentation(**PLAIN), Balance(study_share=1), seed=0
    )
    assert vocabulary.n_genes == N_GENES // 2
    with pytest.raises(ValueError, match="min_sources=3"):
        build_vocabulary(
            make_corpus(),
            settings.model_copy(update={"min_sources": 3}),
            Augmentation(**PLAIN),
            Balance(study_share=1),
            seed=0,
        )
