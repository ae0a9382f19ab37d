"""Second calls: pooled terms, back-off as for single cells, and what is refused."""

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.backoff import UNKNOWN, term_probabilities, terms_by_depth
from zeroshot.confidence.backoff_kernel import PROBABLE
from zeroshot.confidence.calibration import Calibration, CalibrationCurve
from zeroshot.confidence.term_tree import TermTree
from zeroshot.decide.decoding import decode
from zeroshot.decide.options import DecodeOptions
from zeroshot.decide.second_calls import BackoffRule, TermProbabilities, read_terms
from zeroshot.labels.candidates import own_candidates
from zeroshot.results.cell_scores import read_scores, read_slot

ONTOLOGY = Ontology.bundled()
CURVE = CalibrationCurve(temperature=1.3, slope=1.1, depth_cost=0.05, intercept=0.4)
CALIBRATION = Calibration(all_types=CURVE, given=CURVE)


@pytest.fixture(scope="module")
def model(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture(scope="module", params=["all", "own"])
def named(request, make_cells, model):
    """Annotated cells, at a level that some calls reach in full, some broadly and some not."""
    labels = ["B cell", "T cell", "CD4-positive, alpha-beta T cell", "text: a cell that glows"]
    adata = make_cells(60)
    adata.obs["alone"] = [str(row) for row in range(60)]
    adata.obs["pair"] = [str(row // 2) for row in range(60)]
    options = AnnotateOptions(calibration=CALIBRATION, confidence=0.6)
    annotate(adata, model=model, labels=labels if request.param == "own" else None, options=options)
    return adata


def _rule(adata) -> tuple[BackoffRule, TermProbabilities]:
    scores = read_scores(adata)
    rule = BackoffRule.of(scores, read_slot(adata, "uns/langcell"), ONTOLOGY)
    return rule, TermProbabilities(scores, read_terms(adata, rule.tree, key="langcell"))


def test_a_cluster_of_one_cell_gets_the_call_of_the_cell(named):
    adata = named.copy()
    assert 1 < adata.obs["langcell_label"].nunique()
    decode(adata, DecodeOptions(cluster_key="alone"))
    for name in ("label", "ontology_term_id", "leaf_label", "leaf_ontology_term_id"):
        assert adata.obs[f"langcell_cluster_{name}"].tolist() == (
            adata.obs[f"langcell_{name}"].tolist()
        )
    assert adata.obs["langcell_cluster_confidence"].to_numpy() == pytest.approx(
        adata.obs["langcell_confidence"].to_numpy(), abs=2e-5
    )
    assert adata.uns["langcell"]["decoding"]["cluster"]["n_changed"] == 0


def test_a_pooled_term_has_the_mean_of_its_cells(named):
    rule, cells = _rule(named)
    consensus, pooled = cells.pooled(named.obs["pair"].to_numpy(str), "mean")
    calls = rule(pooled)
    table = cells.terms.probabilities.toarray().reshape(30, 2, -1).mean(axis=1)
    order = np.argsort(np.argsort([int(call.cluster) for call in consensus.calls]))
    assert order.tolist() == list(range(30)), "in the order of their numbers"
    confidence = CURVE.confidence(table, rule.tree.depths[None, :])
    for row in range(30):
        sure = np.flatnonzero((confidence[row] >= 0.6) & rule.tree.is_callable & (table[row] > 0))
        if calls.terms[row] < 0:
            assert not len(sure)
            continue
        assert calls.terms[row] in sure
        assert rule.tree.depths[calls.terms[row]] == rule.tree.depths[sure].max()
        assert calls.confidence[row] == pytest.approx(confidence[row, calls.terms[row]], abs=2e-5)


def test_cells_of_no_cluster_and_without_a_label_keep_what_is_true_of_them(named):
    adata = named.copy()
    adata.obs["some"] = ["a"] * 10 + [""] * 50
    decode(adata, DecodeOptions(cluster_key="some", assign_within="some"))
    outside = adata.obs.iloc[10:]
    assert outside["langcell_cluster_label"].tolist() == outside["langcell_label"].tolist()
    assert adata.obs["langcell_cluster_confidence"].iloc[:10].nunique() == 1
    none = adata.obs["langcell_assigned_label"] == "unassigned"
    assert adata.obs["langcell_assigned_confidence"].isna().tolist() == none.tolist()
    kept = outside[~none.iloc[10:]]
    assert kept["langcell_assigned_confidence"].to_numpy() == pytest.approx(
        kept["langcell_leaf_confidence"].to_numpy(), abs=2e-5
    )


def test_a_row_without_any_term_is_unknown(named):
    rule, cells = _rule(named)
    nothing = TermProbabilities(
        *(
            each.with_probabilities(sparse.csr_matrix((1, each.probabilities.shape[1])))
            for each in (cells.scores, cells.terms)
        )
    )
    calls = rule(nothing)
    assert rule.labels(calls)[0].tolist() == [UNKNOWN] and rule.labels(calls)[1].tolist() == [""]
    assert np.isnan(calls.leaf_confidence).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.3, 3.0]))
def test_the_terms_kept_are_those_of_the_whole_sum(seed, spread):
    labels = ["T cell", "CD4-positive, alpha-beta T cell", "mature NK T cell", "B cell", "neuron"]
    tree = TermTree.of(own_candidates(labels, ONTOLOGY), ONTOLOGY)
    rows = np.random.default_rng(seed).gumbel(size=(7, 5)).astype(np.float32) * np.float32(spread)
    by_depth = terms_by_depth(rows, tree, rows.argmax(axis=1), temperature=1.0)
    found = by_depth.probable_terms.to_csr().toarray()
    wanted = term_probabilities(rows, tree)
    assert found[found > 0] == pytest.approx(wanted[found > 0], abs=6e-6)
    missing = (found == 0) & tree.is_callable & (wanted >= PROBABLE + 1e-6)
    assert not missing.any()
    assert found[np.arange(7), by_depth.leaf_terms] == pytest.approx(
        by_depth.leaf_probabilities, abs=6e-6
    )


def test_terms_that_are_missing_or_of_another_release_are_refused(named, tmp_path):
    adata = named.copy()
    adata.uns["langcell"]["term_ids"] = adata.uns["langcell"]["term_ids"][:-1]
    with pytest.raises(ValueError, match="from another release of the Cell Ontology"):
        decode(adata, DecodeOptions(smooth=1.0))
    gone = named.copy()
    gone.uns["langcell"]["candidate_ids"] = gone.uns["langcell"]["candidate_ids"].copy()
    gone.uns["langcell"]["candidate_ids"][0] = "CL:9999999"
    with pytest.raises(ValueError, match="from another release of the Cell Ontology"):
        decode(gone, DecodeOptions(smooth=1.0))
    del adata.obsm["langcell_terms"]
    adata.write_h5ad(tmp_path / "old.h5ad")
    for source in (adata, tmp_path / "old.h5ad"):
        with pytest.raises(ValueError, match=r"has no obsm\['langcell_terms'\]: annotate it again"):
            decode(source, DecodeOptions(smooth=1.0))
    assert not [each for each in anndata.read_h5ad(tmp_path / "old.h5ad").obs if "smooth" in each]
