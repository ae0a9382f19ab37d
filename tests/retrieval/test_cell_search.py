"""Search: scores, false discovery rates and decisions against slow obvious versions."""

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import false_discovery_control

from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from tests.support.command_line import run_langcell
from zeroshot.labels.queries import query_features, read_queries
from zeroshot.retrieval.background import Background, NullDistribution, z_values
from zeroshot.retrieval.cell_search import SearchOptions, search
from zeroshot.retrieval.false_discovery import ScoreHistogram

FREE = "text: a cell that glows"


def unit(n, seed):
    rows = np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def model(tiny_bag):
    model = LangCell.from_pretrained(str(tiny_bag))
    model.reference = ReferenceCells(features=unit(300, 5).astype(np.float16))
    return model


@pytest.fixture(scope="module")
def background(model):
    return Background(model, Ontology.bundled())


@pytest.fixture(scope="module")
def null():
    return NullDistribution.of(np.round(np.random.default_rng(0).normal(-9, 2, 100_000), 2))


def test_a_score_is_the_log_odds_against_descriptions_that_are_no_kin(model, background):
    ontology = Ontology.bundled()
    queries = read_queries(["T cell", FREE], ontology)
    features = query_features(queries, model)
    nearest = background.nearest(queries, features)
    cells = unit(3, 1)
    scores = background.scores(cells, features, nearest)
    scale = model.scale.item()
    for column, query in enumerate(queries):
        base = query.term_id or background.ids[int((features[1] @ background.features.T).argmax())]
        assert background.ids[nearest[column]] == base
        others = [
            i for i, each in enumerate(background.ids) if not ontology.is_comparable(each, base)
        ]
        assert 1 < len(others) < len(background.ids)
        for row, cell in enumerate(cells):
            against = logsumexp(scale * (background.features[others] @ cell).astype(np.float64))
            wanted = scale * float(features[column] @ cell) - against
            assert scores[row, column] == pytest.approx(wanted, abs=0.0051)  # two decimals


def test_the_null_holds_pairs_of_cells_and_descriptions_that_are_no_kin(background):
    cells = unit(20, 2)
    null = background.null(cells)
    everything = np.arange(len(background.ids))
    scores = background.scores(cells, background.features, everything)
    ontology = Ontology.bundled()
    best = (cells @ background.features.T).argmax(axis=1)
    kept = [
        scores[row, column]
        for row, own in enumerate(best)
        for column in everything
        if not ontology.is_comparable(background.ids[own], background.ids[column])
    ]
    assert null.quantiles[0] == pytest.approx(min(kept), abs=1e-4)
    assert np.median(null.quantiles) == pytest.approx(np.quantile(kept, 0.4995), abs=0.02)


def test_p_values_are_shares_of_the_null(null):
    draws = np.random.default_rng(1).normal(-9, 2, 50_000)
    p_values = null.p_values(draws)
    for level in (0.5, 0.1, 0.01):
        assert (p_values <= level).mean() == pytest.approx(level, rel=0.1)
    grid = null.p_values(np.linspace(-30, 10, 4000))
    assert (np.diff(grid) <= 0).all() and grid[0] == 1 and 0 < grid[-1] < 1e-6
    assert z_values(np.array([0.5, 0.022750131948179195])) == pytest.approx([0, 2])


@given(
    scores=st.lists(st.floats(-20, 5), min_size=1, max_size=80),
    size=st.integers(1, 80),
    max_fdr=st.sampled_from([0.01, 0.05, 0.2]),
)
def test_rates_from_counts_are_those_of_benjamini_and_hochberg(null, scores, size, max_fdr):
    values = np.round(np.array(scores), 2)
    counts = ScoreHistogram(1)
    for start in range(0, len(values), size):
        counts.add(values[start : start + size, None])
    wanted = false_discovery_control(null.p_values(values))
    found = counts.false_discovery_rates(0, values, null)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    n_hits = int(((wanted <= max_fdr) & (values >= -4)).sum())
    assert counts.n_hits(0, null, max_fdr=max_fdr, floor=-4) == n_hits


def test_the_best_cells_are_listed_in_order(make_cells, model, background):
    adata = make_cells(2100)  # three blocks
    result = search(adata, ["T cell", FREE], model=model, options=SearchOptions(top=7))
    features = model.encode_cells(adata)
    queries = read_queries(["T cell", FREE], Ontology.bundled())
    wanted = query_features(queries, model)
    scores = background.scores(features, wanted, background.nearest(queries, wanted))
    for column, found in enumerate(result.found):
        order = np.lexsort((np.arange(2100), -scores[:, column]))[:7]
        assert found.cells.tolist() == adata.obs_names[order].tolist()
        assert found.scores.tolist() == scores[order, column].tolist()
    table = result.table()
    assert len(table) == 14 and table["rank"].tolist() == [*range(1, 8)] * 2
    assert (table["z"].groupby(table["query"]).diff().dropna() <= 0).all()


def test_hits_are_counted_over_all_cells_and_none_is_said(make_cells, model):
    adata = make_cells(60)
    loose = SearchOptions(top=5, fdr=0.999, floor=-50)
    every = search(adata, ["T cell"], model=model, options=loose)
    assert every.found[0].n_hits == 60 and every.summary()["hits"].tolist() == ["60"]
    strict = search(adata, ["T cell"], model=model, options=SearchOptions(floor=50))
    assert strict.summary()["hits"].tolist() == ["none"]
    assert not strict.table()["hit"].any() and len(strict.table()) == 50


def test_scores_go_into_an_anndata(make_cells, model, tmp_path):
    adata = make_cells(40)
    result = search(adata, ["NK cells", FREE], model=model, key_added="found")
    best = result.found[0].cells[0]
    assert adata.obs["found_NK_cells"].idxmax() == best
    assert adata.obs["found_text_a_cell_that_glows"].dtype == np.float32
    adata.write_h5ad(tmp_path / "found.h5ad")
    stored = anndata.read_h5ad(tmp_path / "found.h5ad").uns["found"]
    assert stored["cell"].tolist() == result.table()["cell"].tolist()
    with pytest.raises(ValueError, match="needs an AnnData"):
        search(tmp_path / "found.h5ad", ["NK cells"], model=model, key_added="found")


def test_queries_are_read_as_terms_or_words():
    ontology = Ontology.bundled()
    queries = read_queries(["NK cells", "CL:0000236", "odd cells", FREE], ontology)
    assert [query.term_id for query in queries] == ["CL:0000623", "CL:0000236", "", ""]
    assert queries[2].text == "cell type: odd cells. "
    assert queries[3].name == "a cell that glows"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "a query is empty"),
        (["  "], "a query is empty"),
        (["text: "], "a query is empty"),
        (["CL:9999999"], "CL:9999999"),
        (["cell"], "too general"),
    ],
)
def test_what_is_no_query_is_refused(words, line):
    with pytest.raises(ValueError, match=line):
        read_queries(words, Ontology.bundled())


def test_a_model_without_reference_cells_is_refused(make_cells, tiny_model):
    with pytest.raises(ValueError, match="no reference cells"):
        search(make_cells(5), ["T cell"], model=str(tiny_model))


def test_options_are_checked():
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        SearchOptions(top=0)
    with pytest.raises(ValueError, match="fdr must be between 0 and 1, got 5"):
        SearchOptions(fdr=5)


@pytest.fixture
def langcell(tmp_path):
    def call(*words):
        return run_langcell(tmp_path, *words)

    return call


def test_the_commands_print_and_write(langcell, make_cells, tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    make_cells(45).write_h5ad(tmp_path / "cells.h5ad")
    ask = ("--h5ad", "cells.h5ad", "--model", "model")
    done = langcell("search", "NK cells", "T cell", *ask, "--top", 3, "--out", "hits.csv")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("query\tread_as\tnearest\thits\tbest_cell"), done.stderr
    assert lines[1].startswith("NK cells\tCL:0000623\tnatural killer cell\t")
    assert lines[3] == "wrote\thits.csv"
    assert len((tmp_path / "hits.csv").read_text().splitlines()) == 7
    again = langcell("search", "NK cells", *ask, "--out", "hits.csv")
    assert again.returncode == 1 and "--overwrite" in again.stderr
    done = langcell("explain", *ask, "--cells", "cell3; cell5", "--genes", 2)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("target\tn_cells\tlabel"), done.stderr
    assert {line.split("\t")[0] for line in lines[1:]} == {"cell3", "cell5"}
    done = langcell("explain", *ask, "--cluster-key", "cell_type", "--out", "why.parquet")
    assert done.stdout == "wrote\twhy.parquet\n", done.stderr
