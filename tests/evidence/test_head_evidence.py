"""Genes behind what a head says: exact where a gene is left out, and from the command to the report."""

import doctest
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest

from langcell.counts.reader import open_counts
from langcell.model.embed_cells import CellEmbeddings
from langcell.model.langcell import LangCell
from langcell.tokens.tokenizer import RankTokenizer, TokenBlock
from ontology.graph import Ontology
from tests.support.command_line import run_langcell
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.evidence import head_evidence
from zeroshot.evidence.attribution import token_features
from zeroshot.evidence.explain import ExplainOptions, explain
from zeroshot.evidence.group_evidence import GroupCall, explain_groups
from zeroshot.evidence.head_evidence import rank_effects
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.options import FewShotOptions
from zeroshot.heads.few_shot_head import rank_weights
from zeroshot.heads.head_file import read_head, write_head
from zeroshot.labels.candidates import own_candidates
from zeroshot.report.report import write_report

pytestmark = pytest.mark.filterwarnings("ignore:low gene coverage")
B, T = "CL:0000236", "CL:0000084"


def test_examples():
    outcome = doctest.testmod(head_evidence)
    assert outcome.attempted > 0 and outcome.failed == 0


@pytest.fixture(scope="module")
def labelled(make_cells):
    """60 cells of three types, each with 15 genes of its own."""
    adata = make_cells(60, seed=4)
    counts = adata.X.toarray()
    for row in range(60):
        first = row % 3 * 15
        counts[row, first : first + 15] += 40
    adata.X = counts
    return adata


@pytest.fixture(scope="module")
def head(labelled, tiny_bag, tmp_path_factory):
    options = FewShotOptions(kind="linear")
    fitted = fit_few_shot(labelled, "cell_type", model=str(tiny_bag), options=options)
    folder = tmp_path_factory.mktemp("heads") / "head"
    write_head(fitted.head, folder, card="A card.")
    return folder


@pytest.mark.parametrize("n_genes", [0, 1, 7, 10, 11])
def test_effects_of_ranks_are_what_leaving_out_loses(n_genes):
    rng = np.random.default_rng(n_genes)
    tokens, weights = rng.permutation(20)[:n_genes], rng.normal(size=(2, 20))

    def score(genes):
        block = TokenBlock.of([genes[:10]])
        return (rank_weights(block, np.arange(20)) @ weights.T)[0]

    found = rank_effects(tokens, weights, n_read=10)
    assert found.shape == (min(n_genes, 10), 2)
    for place, effects in enumerate(found):
        assert effects == pytest.approx(score(tokens) - score(np.delete(tokens, place)))


def _tokens(adata, model, row):
    with open_counts(adata) as matrix:
        tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes + 1)
        genes = tokenizer.column_genes(matrix.resolution)
        block = matrix.read(row, row + 1)
        return tokenizer.tokenize_csr(block.counts, genes, block.totals).cell(0)


def _log_probabilities(head, model, cells):
    """As `langcell zeroshot --head` has them."""
    candidates = own_candidates(head.keys, Ontology.bundled())
    options = AnnotateOptions(calibration=UNCALIBRATED, head=head, key_added="mine")
    scorer = CellScorer(model, candidates, options)
    read = [tokens[: model.config.max_genes] for tokens in cells]
    embedded = CellEmbeddings(
        start=0, features=token_features(scorer.model, read), tokens=TokenBlock.of(read)
    )
    return scorer.score_all(embedded)[1].astype(np.float64)


def _as_it_is(head, model):
    assert head.text_weight and head.gene_weights.any()
    return head


def _without_texts(head, model):
    return replace(head, text_weight=0.0, target="state")


def _of_a_changed_model(head, model):
    shape = tuple(model.cell_projection.weight.shape)
    weight = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    return replace(head, changes={"cell_projection.weight": weight})


@pytest.mark.parametrize("change", [_as_it_is, _without_texts, _of_a_changed_model])
def test_evidence_of_a_lead_is_what_the_log_odds_lose(labelled, head, tiny_bag, change):
    model = LangCell.from_pretrained(str(tiny_bag))
    head = change(read_head(head), model)
    table = explain(
        labelled, cells=["cell0"], head=head, model=model, options=ExplainOptions(n_genes=400)
    )
    lead = table[table["evidence"] == "against"]
    label, other = (
        head.keys.index(lead[each].iloc[0])
        for each in ("ontology_term_id", "against_ontology_term_id")
    )
    tokens = _tokens(labelled, model, 0)
    token_of = dict(zip(model.genes.ensembl_ids, model.genes.gene_tokens, strict=True))
    cut = [tokens[tokens != token_of[each]] for each in lead["ensembl_id"]]
    whole, *left = _log_probabilities(head, model, [tokens, *cut])
    lost = (whole[label] - whole[other]) - np.array([each[label] - each[other] for each in left])
    assert lead["effect"].to_numpy() == pytest.approx(lost, abs=2e-4)


def test_genes_of_the_evidence_carry_the_calls(labelled, head, tiny_bag):
    """Taken out, they lower the score of the label more than as many random genes."""
    model, head = LangCell.from_pretrained(str(tiny_bag)), read_head(head)
    rng, drops = np.random.default_rng(0), []
    token_of = dict(zip(model.genes.ensembl_ids, model.genes.gene_tokens, strict=True))
    names = [f"cell{row}" for row in range(12)]
    table = explain(
        labelled, cells=names, head=head, model=model, options=ExplainOptions(n_genes=5)
    )
    table = table[(table["evidence"] == "label") & (table["effect"] > 0)]
    for row, name in enumerate(names):
        raising = table[table["target"] == name]
        own = head.keys.index(raising["ontology_term_id"].iloc[0])
        tokens = _tokens(labelled, model, row)
        found = [token_of[each] for each in raising["ensembl_id"]]
        random = rng.permutation(tokens[: model.config.max_genes])[: len(found)]
        cut = [tokens[~np.isin(tokens, each)] for each in (found, random)]
        whole, without, by_chance = _log_probabilities(head, model, [tokens, *cut])[:, own]
        drops.append((whole - without, whole - by_chance))
    of_evidence, of_random = np.mean(drops, axis=0)
    assert of_evidence > 2 * max(of_random, 0) and of_evidence > 0.2


def test_a_head_that_is_not_linear_is_refused(labelled, head, tiny_bag):
    matching = replace(read_head(head), kind="langcell", matches=True)
    with pytest.raises(ValueError, match="a langcell head scores labels with the matching head"):
        explain(labelled, cells=["cell0"], head=matching, model=str(tiny_bag))


def test_a_label_that_the_head_has_not_is_refused(labelled, head, tiny_bag):
    model, head = LangCell.from_pretrained(str(tiny_bag)), read_head(head)
    with pytest.raises(ValueError, match="the head has no label 'neuron'; it has B cell, "):
        explain(labelled, cells=["cell0"], head=head, model=model, label="neuron")
    table = explain(
        labelled, cells=["cell0"], head=head, model=model, label="monocyte", against="T cell"
    )
    assert set(table["label"]) == {"monocyte"} and set(table["against"]) == {"T cell"}


def test_a_group_is_explained_by_the_head_that_called_it(labelled, head, tiny_bag):
    adata, made_by = labelled.copy(), read_head(head)
    adata.obs["leiden"] = adata.obs["cell_type"].astype(str)
    annotate(adata, model=str(tiny_bag), options=AnnotateOptions(head=made_by))
    details, members = adata.uns["langcell"], adata.obs["leiden"].to_numpy(dtype=object)
    weights = (np.array(made_by.keys) == B).astype(float)
    rival = (np.array(made_by.keys) == T).astype(float)
    call = GroupCall(
        group="B cell", call="B cell", term_id=B, weights=weights,
        rival="T cell", rival_id=T, rival_weights=rival,
    )  # fmt: skip
    how = {"ontology": Ontology.bundled()}
    found = explain_groups(adata, [call], members, details, head=made_by, **how)["B cell"]
    table = explain(
        adata, cluster_key="leiden", head=made_by, model=str(tiny_bag), label="B cell",
        against="T cell", options=ExplainOptions(n_genes=6),
    )  # fmt: skip
    rows = table[(table["target"] == "B cell") & (table["evidence"] == "against")]
    wanted = rows[rows["effect"] > 0].set_index("gene")["effect"].to_dict()
    assert {each.symbol: each.effect for each in found.leading} == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(ValueError, match="the calls were made with a head .*; pass head"):
        explain_groups(adata, [call], members, details, **how)
    with pytest.raises(ValueError, match=f"made with the head {made_by.identifier}, not with"):
        other = {**details, "head": {**details["head"], "id": made_by.identifier}}
        changed = fit_few_shot(
            labelled, "cell_type", model=str(tiny_bag), options=FewShotOptions(shots=3)
        ).head
        explain_groups(adata, [call], members, other, head=changed, **how)
    without = {key: value for key, value in details.items() if key != "head"}
    with pytest.raises(ValueError, match="made without a head, not with"):
        explain_groups(adata, [call], members, without, head=made_by, **how)


def test_what_is_explained_without_the_head_that_made_the_calls_is_said(
    labelled, head, tiny_bag, tmp_path
):
    adata, made_by = labelled.copy(), read_head(head)
    annotate(adata, model=str(tiny_bag), options=AnnotateOptions(head=made_by))
    adata.write_h5ad(tmp_path / "named.h5ad")
    words = f"with a head .id {made_by.identifier}., but the model is explained without it"
    how = {"cells": ["cell0"], "model": str(tiny_bag), "options": ExplainOptions(n_genes=1)}
    for source in (adata, tmp_path / "named.h5ad"):
        with pytest.warns(UserWarning, match=words):
            explain(source, **how)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the calls in the file")
        explain(adata, head=made_by, **how)
        explain(labelled, **how)
    explained = ("explain", "--h5ad", "named.h5ad", "--cells", "cell0", "--model", tiny_bag)
    done = run_langcell(tmp_path, *explained)
    assert done.returncode == 0
    assert len([line for line in done.stderr.splitlines() if "pass --head" in line]) == 1


def test_a_report_by_another_head_is_refused(labelled, head, tiny_bag, tmp_path):
    adata, made_by = labelled.copy(), read_head(head)
    annotate(adata, model=str(tiny_bag), options=AnnotateOptions(head=made_by))
    adata.write_h5ad(tmp_path / "named.h5ad")
    other = fit_few_shot(
        labelled, "cell_type", model=str(tiny_bag), options=FewShotOptions(shots=3)
    )
    write_head(other.head, tmp_path / "other", card="A card.")
    words = ("report", "--h5ad", "named.h5ad", "--out", "r.html", "--head", "other")
    done = run_langcell(tmp_path, *words)
    assert done.returncode == 1 and not (tmp_path / "r.html").exists()
    refusal = f"made with the head {made_by.identifier}, not with the head {other.head.identifier}"
    assert refusal in done.stderr
    annotate(adata, model=str(tiny_bag), options=AnnotateOptions(overwrite=True))
    with pytest.raises(ValueError, match="were made without a head, not with"):
        write_report(adata, tmp_path / "r.html", head=made_by)


def test_from_the_command_to_table_and_report(labelled, head, tiny_bag, tmp_path):
    labelled.write_h5ad(tmp_path / "cells.h5ad")
    words = ["--h5ad", "cells.h5ad", "--model", tiny_bag, "--head", head]
    done = run_langcell(tmp_path, "explain", *words, "--cluster-key", "cell_type", "--out", "e.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "e.csv")
    assert set(table["target"]) == {"B cell", "T cell", "monocyte"}
    assert (table["target"] == table["label"]).all()
    words += ["--out", "named.h5ad", "--report", "r.html"]
    done = run_langcell(tmp_path, "zeroshot", *words)
    assert done.returncode == 0, done.stderr
    assert anndata.read_h5ad(tmp_path / "named.h5ad").uns["langcell"]["head"]
    missing = "the calls were made with a head (id "
    assert missing not in (tmp_path / "r.html").read_text()
    cap = ["export", "--h5ad", "named.h5ad", "--format", "cap", "--author", "Ada Byron"]
    done = run_langcell(tmp_path, *cap, "--evidence", "--head", head, "--out", "cap.h5ad")
    assert done.returncode == 0, done.stderr
    again = ["report", "--h5ad", "named.h5ad", "--out"]
    done = run_langcell(tmp_path, *again, "without.html")
    assert done.returncode == 0 and missing in (tmp_path / "without.html").read_text()
    (line,) = (line for line in done.stderr.splitlines() if "evidence genes" in line)
    made_by = read_head(head).identifier
    assert "has no evidence genes: the calls were made with a head" in line and made_by in line
    done = run_langcell(tmp_path, *again, "with.html", "--head", head)
    assert done.returncode == 0 and missing not in (tmp_path / "with.html").read_text()
