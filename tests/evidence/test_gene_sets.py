"""Membership of gene sets: folds, parity with a plain way, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy.gene_sets import families, marker_sets, measure, scorers
from langcell.model.langcell import LangCell
from tests.support.command_line import run_langcell
from zeroshot.evidence.gene_sets import fit_set, gene_vectors, membership, rank_genes


@pytest.fixture(scope="module")
def model(tiny_bag):
    """A model whose first twenty genes lie apart from the others."""
    model = LangCell.from_pretrained(str(tiny_bag))
    tokens = model.genes.gene_tokens[:20]
    model.cell_encoder.gene_embeddings.data[tokens, :4] += 60.0
    return model


def test_vectors_are_those_of_the_tokens(model):
    vectors = gene_vectors(model)
    for row in (0, 7, 399):
        token = model.genes.gene_tokens[row]
        wanted = model.cell_encoder.gene_embeddings[token].detach().numpy()
        assert vectors[row] == pytest.approx(wanted)


def test_a_set_is_a_regression_on_scaled_vectors():
    rng = np.random.default_rng(0)
    vectors, others = rng.normal(3, 2, (50, 4)), rng.normal(3, 2, (6, 4))
    is_given = np.arange(50) < 8
    scaled = [(x - vectors.mean(axis=0)) / vectors.std(axis=0) / 2 for x in (vectors, others)]
    fit = LogisticRegression(class_weight="balanced", max_iter=200).fit(scaled[0], is_given)
    wanted = fit.predict_proba(scaled[1])[:, 1]
    assert fit_set(vectors, is_given, others) == pytest.approx(wanted, abs=1e-6)


def test_no_gene_is_scored_by_what_saw_it():
    """One gene is given that nothing resembles: what did not see it scores it low."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 40))
    is_given = np.isin(np.arange(200), [3, 50, 90])
    scores = membership(vectors, is_given)
    assert fit_set(vectors, is_given, vectors)[is_given].min() > 0.8 > scores[is_given].max()


def test_genes_like_the_given_come_first(model):
    symbols = model.genes.symbols
    ranked = rank_genes([*symbols[:10], symbols[0], "NOGENE1", " "], model=model)
    assert ranked.unknown == ("NOGENE1",) and ranked.auroc > 0.95
    assert ranked.table["is_given"].sum() == 10 and len(ranked.table) == 400
    assert set(ranked.table["gene"][:20]) == set(symbols[:20])
    assert ranked.table["score"].is_monotonic_decreasing
    with pytest.raises(ValueError, match="at least 3 genes that the model knows, got 2 of 3"):
        rank_genes([*symbols[:2], "NOGENE1"], model=model)


def test_families_and_markers(tmp_path):
    symbols = np.array([f"RPL{n}" for n in range(20)] + ["RPLP", "MRPL3", "ZNF1", "RPS6KA1"])
    assert families(symbols)["ribosomal"].tolist() == list(range(20))
    table = pd.DataFrame(
        {
            "manual_CLname": ["B cell", "B cell", "B cell", "T cell"],
            "marker": ["CD19, CD79A", "CD79A, C9orf16", "Cd19, Ms4a1", "CD3E"],
        }
    )
    table.to_csv(tmp_path / "m.csv")
    ids = np.array(["ENSG00000177455", "ENSG00000156738", "ENSG00000105369"])  # CD19 MS4A1 CD79A
    assert marker_sets(tmp_path / "m.csv", ids, fewest=3) == {}
    assert marker_sets(tmp_path / "m.csv", ids, fewest=2)["B cell"].tolist() == [0, 2]


def test_methods_rank_genes_that_were_not_given():
    rng = np.random.default_rng(0)
    members, expression = np.arange(30), rng.gamma(1, 1, (200, 12))
    vectors = rng.normal(size=(200, 6))
    vectors[:30, 0] += 5
    table = measure({"mine": members}, scorers(vectors, expression))
    means = table.groupby("method").auroc.mean()
    assert means["gene embeddings"] > 0.95
    is_rest = np.isin(np.arange(200), members[5:])
    assert abs(means["chance"] - 0.5) < 0.15 and is_rest.sum() == 25
    given = np.random.default_rng([0, 3]).permutation(members)[:3]
    asked = np.setdiff1d(np.arange(200), given)
    wanted = roc_auc_score(np.isin(asked, members), expression.mean(axis=1)[asked])
    row = table[(table.method == "mean expression") & (table.given == 3) & (table.draw == 0)]
    assert row.auroc.item() == pytest.approx(wanted)


def test_command(tiny_bag, coding_genes, tmp_path):
    (tmp_path / "mine.txt").write_text("# mine\n" + "\n".join([*coding_genes[:5], "NOGENE1"]))
    words = ("fewshot", "genes", "--set", "mine.txt", "--out", "ranked.csv", "--model", tiny_bag)
    done = run_langcell(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "genes\t5 of the set, 400 ranked" in done.stdout
    assert "unknown\t1: NOGENE1" in done.stdout
    table = pd.read_csv(tmp_path / "ranked.csv")
    assert table["is_given"].sum() == 5 and table["score"].is_monotonic_decreasing
    again = run_langcell(tmp_path, *words)
    assert again.returncode == 1 and "ranked.csv" in again.stderr
