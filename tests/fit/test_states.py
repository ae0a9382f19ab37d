"""Heads of states and of donors: what is learnt, what is refused, and what a file gets."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from langcell.counts.reader import open_counts
from langcell.model.embed_cells import CellEmbeddings, embed_cells
from langcell.model.langcell import LangCell
from tests.fit.test_few_shot import make_shots
from tests.support.command_line import run_langcell
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED, CalibrationCurve
from zeroshot.fit.donor_calls import call_donors
from zeroshot.fit.donor_split import is_constant_within
from zeroshot.fit.fit_donor_head import donor_means, fit_donor_head, mean_weights
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.fit_head import held_out
from zeroshot.fit.head_card import head_lines
from zeroshot.fit.options import FewShotOptions
from zeroshot.heads.few_shot_head import log_softmax, rank_weights
from zeroshot.heads.head_file import read_head, write_head


@pytest.fixture(scope="module")
def model(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture
def ill(make_cells):
    """Six donors of 20 cells, three of them ill: 40 genes are up in all their cells."""
    adata = make_cells(120)
    dense = adata.X.toarray()
    donors = np.repeat([f"d{number}" for number in range(6)], 20)
    is_ill = np.isin(donors, ["d1", "d3", "d5"])
    dense[np.ix_(is_ill, range(40))] += np.random.default_rng(0).poisson(4, (60, 40))
    adata.X = type(adata.X)(dense.astype(np.float32))
    adata.obs["donor"] = donors
    adata.obs["disease"] = np.where(is_ill, "B cell", "normal")  # a word that is a cell type too
    adata.obs["well"] = np.tile(["w1", "w2"], 60)
    return adata


def treated(adata):
    """In every donor half of the cells are treated: 40 genes are up."""
    is_treated = np.tile([False, True], 60)
    dense = adata.X.toarray()
    dense[np.ix_(is_treated, range(60, 100))] += 4
    adata.X = type(adata.X)(dense)
    adata.obs["condition"] = np.where(is_treated, "treated", "control")
    return adata


def test_a_state_is_learnt_from_cells_alone(ill, model):
    options = FewShotOptions(target="state", group_key="donor")
    fitted = fit_few_shot(treated(ill), "condition", model=model, options=options)
    assert fitted.head.keys == ("text: control", "text: treated")
    assert fitted.head.target == "state" and fitted.head.text_weight == 0
    assert fitted.accuracy > 0.9 and fitted.majority_accuracy == 0.5
    assert fitted.held_out == "120 cells, cross-validated by donor"
    assert np.isnan(fitted.zero_shot_accuracy) and fitted.as_text == ()
    options = AnnotateOptions(head=fitted.head, key_added="langcell_state")
    found = annotate(ill, model=model, options=options)
    assert (found.names == ill.obs["condition"]).mean() > 0.95
    assert "langcell_state_label" in ill.obs and "langcell_label" not in ill.obs
    assert ill.uns["langcell_state"]["head"]["target"] == "state"


def test_a_state_never_has_the_calibration_of_cell_types(ill, model, monkeypatch):
    """Twenty labelled cells are too few for one of its own."""
    brought = replace(UNCALIBRATED, given=CalibrationCurve(slope=0.5), model_sha256=model.sha256)
    monkeypatch.setattr(model, "calibration", brought.to_json())
    options = FewShotOptions(target="state", group_key="donor", shots=10)
    fitted = fit_few_shot(treated(ill), "condition", model=model, options=options)
    assert not fitted.is_calibrated and fitted.head.calibration == UNCALIBRATED
    (line,) = [line for line in head_lines(fitted) if line.startswith("confidence")]
    assert line.startswith("confidence\tnot calibrated: probabilities of the head;")
    options = AnnotateOptions(head=fitted.head, key_added="langcell_state")
    found = annotate(ill, model=model, options=options)
    assert found.calls.leaf_confidence.min() >= 0.5 - 1e-6  # of two labels
    assert ill.uns["langcell_state"]["calibration"]["id"] == "uncalibrated"


def test_a_head_no_better_than_the_largest_label_says_so(ill, model):
    ill.obs["coin"] = np.random.default_rng(1).choice(["heads", "tails"], 120, p=[0.8, 0.2])
    options = FewShotOptions(target="state", group_key="donor")
    fitted = fit_few_shot(ill, "coin", model=model, options=options)
    assert fitted.accuracy <= fitted.majority_accuracy
    (line,) = [line for line in head_lines(fitted) if line.startswith("warning")]
    assert line == (
        "warning\tthe head is no better than a baseline: accuracy "
        f"{fitted.accuracy:.4f}, against {fitted.majority_accuracy:.4f} by the majority label"
    )
    fitted = fit_few_shot(treated(ill), "condition", model=model, options=options)
    assert not any(line.startswith("warning") for line in head_lines(fitted))


def test_words_of_states_are_no_cell_types(ill, model):
    options = FewShotOptions(target="state", group_key="donor")
    fitted = fit_few_shot(ill, "disease", model=model, options=options)
    assert fitted.head.keys == ("text: B cell", "text: normal")


@pytest.mark.parametrize(
    ("group_key", "message"),
    [
        (None, r"in all cells of each of 6 donors \(obs\['donor'\]\); without group_key cells of"),
        ("well", "with group_key='well', which splits donors, cells of one donor would be both"),
    ],
)
def test_a_label_of_donors_is_not_judged_by_cells(ill, model, group_key, message):
    options = FewShotOptions(target="state", group_key=group_key)
    with pytest.raises(ValueError, match=f"{message}.*: pass group_key='donor'"):
        fit_few_shot(ill, "disease", model=model, options=options)
    renamed = ill.copy()
    renamed.obs = renamed.obs.rename(columns={"donor": "Patient"})
    with pytest.raises(ValueError, match="pass group_key='Patient'"):
        fit_few_shot(renamed, "disease", model=model, options=options)


@pytest.mark.parametrize("target", ["state", "donor"])
def test_one_donor_a_label_tells_nothing(ill, model, target):
    two = ill[ill.obs["donor"].isin(["d0", "d1"])].copy()
    options = FewShotOptions(target=target, group_key="donor")
    with pytest.raises(ValueError, match=r"are of one donor \(obs\['donor'\] is 'd1'\), so the"):
        fit_few_shot(two, "disease", model=model, options=options)


def test_a_name_for_every_cell_is_no_donor(ill, model):
    ill.obs = ill.obs.drop(columns="donor")
    ill.obs["sample"] = ill.obs_names
    options = FewShotOptions(target="state")
    fitted = fit_few_shot(ill, "disease", model=model, options=options)
    assert (
        fitted.held_out
        == "120 cells, cross-validated by cell; folds may split the cells of a donor"
    )


def test_no_fold_takes_all_donors_of_a_label():
    """Groups of one size, so that size alone would put the two donors of label 1 together."""
    groups = np.repeat(np.arange(10), 6)
    labels = np.isin(groups, [4, 9]).astype(int)
    shots = make_shots(labels, n_labels=2, groups=groups)
    taken = [set(groups[rows]) for rows, _ in held_out(shots, "linear")]
    assert len(taken) == 5 and sorted(set().union(*taken)) == list(range(10))
    assert not any({4, 9} <= each for each in taken)


def test_constant_within():
    assert is_constant_within(np.array([0, 0, 1]), np.array(["a", "a", "b"]))
    assert not is_constant_within(np.array([0, 1, 1]), np.array(["a", "a", "b"]))


@pytest.mark.parametrize("by_types", [False, True])
def test_means_by_hand(by_types):
    donors, types = np.array(["b", "a", "b", "b"]), np.array(["T", "T", "T", "B"])
    names, weights = mean_weights(donors, types if by_types else None)
    assert names.tolist() == ["a", "b"]
    wanted = [0.25, 0, 0.25, 0.5] if by_types else [1 / 3, 0, 1 / 3, 1 / 3]
    assert weights.toarray() == pytest.approx(np.array([[0, 1, 0, 0], wanted]))


def embedded(adata, model) -> CellEmbeddings:
    with open_counts(adata) as matrix:
        (block,) = embed_cells(model, matrix)
    return block


def test_a_donor_head_is_two_regressions_on_scaled_means(ill, model):
    cells = embedded(ill, model)
    donors = donor_means([cells], ill.obs["donor"].to_numpy())
    labels = np.array([0, 1] * 3)
    head = fit_donor_head(donors, labels, ("text: a", "text: b"))
    wanted = 0
    for inputs in (donors.features, donors.genes):
        centred = inputs - inputs.mean(axis=0)
        centred /= np.sqrt((centred**2).sum(axis=1).mean())
        fit = LogisticRegression(C=10, class_weight="balanced", max_iter=500).fit(centred, labels)
        wanted = wanted + fit.decision_function(centred)
    # The mean of the log-odds of cells is that of the mean cell.
    _, weights = mean_weights(ill.obs["donor"].to_numpy(), None)
    found = weights @ head.log_odds(cells.features, cells.tokens)
    assert found[:, 1] - found[:, 0] == pytest.approx(wanted, abs=1e-4)
    genes = rank_weights(cells.tokens, head.gene_tokens).toarray()
    assert donors.genes[0] == pytest.approx(genes[:20].mean(axis=0))
    assert np.exp(log_softmax(found)).sum(axis=1) == pytest.approx(1)


def test_means_do_not_depend_on_blocks(ill, model):
    cells, donors = embedded(ill, model), ill.obs["donor"].to_numpy()
    types = np.where(np.arange(len(donors)) % 3, "T", "B")
    whole = donor_means([cells], donors, types)
    parts = [
        CellEmbeddings(
            start=first,
            features=cells.features[first : first + 7],
            tokens=cells.tokens.part(first, min(first + 7, len(donors))),
        )
        for first in range(0, len(donors), 7)
    ]
    found = donor_means(iter(parts), donors, types)
    np.testing.assert_array_equal(found.gene_tokens, whole.gene_tokens)
    np.testing.assert_allclose(found.features, whole.features, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.genes, whole.genes, rtol=0, atol=1e-12)
    # As one sum over all cells.
    _, weights = mean_weights(donors, types)
    genes = np.unique(cells.tokens.tokens)
    np.testing.assert_array_equal(whole.gene_tokens, genes)
    wanted = (weights @ rank_weights(cells.tokens, genes)).toarray()
    np.testing.assert_allclose(whole.genes, wanted, rtol=0, atol=1e-12)


def test_donors_are_called(ill, model, tmp_path):
    ill.obs.loc[ill.obs["donor"] == "d0", "disease"] = ""
    options = FewShotOptions(target="donor", group_key="donor")
    fitted = fit_few_shot(ill, "disease", model=model, options=options)
    assert fitted.held_out == "5 donors, cross-validated" and fitted.accuracy == 1
    assert fitted.majority_accuracy == 0.6 and fitted.n_without == 20
    assert fitted.head.n_shots.tolist() == [3, 2]
    write_head(fitted.head, tmp_path / "head", card="")
    head = read_head(tmp_path / "head")
    assert head.target == "donor" and not head.by_types
    ill.obs["person"] = ill.obs["donor"].where(ill.obs["donor"] != "d5", "")
    found = call_donors(ill, head, "person", model=model)
    assert found["label"].to_dict() == {
        "d0": "normal", "d1": "B cell", "d2": "normal", "d3": "B cell", "d4": "normal"
    }  # fmt: skip
    assert (found["n_cells"] == 20).all()
    assert found["probability"].tolist() == found[["B cell", "normal"]].max(axis=1).tolist()


def test_types_of_a_donor_count_the_same(ill, model):
    ill.obs["kind"] = np.where(np.arange(120) % 20 < 15, "x", "y")
    options = FewShotOptions(target="donor", group_key="donor", type_key="kind")
    head = fit_few_shot(ill, "disease", model=model, options=options).head
    found = call_donors(ill, head, "donor", type_key="kind", model=model)
    cells = embedded(ill, model)
    log_odds = pd.DataFrame(head.log_odds(cells.features, cells.tokens))
    by_type = log_odds.groupby([ill.obs["donor"].to_numpy(), ill.obs["kind"].to_numpy()]).mean()
    wanted = np.exp(log_softmax(by_type.groupby(level=0).mean().to_numpy()))
    assert found[["B cell", "normal"]].to_numpy() == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(ValueError, match="pass the obs column of cell types as type_key"):
        call_donors(ill, head, "donor", model=model)


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("disease", {}, "need an obs column with two donors or more: pass group_key"),
        ("condition", {"group_key": "donor"}, r"differ in obs\['condition'\]: it is a state of"),
        (
            "disease",
            {"group_key": "donor", "kind": "prototype"},
            "linear head, got kind='prototype",
        ),
        ("disease", {"group_key": "donor", "type_key": "kind"}, "no column 'kind' in obs"),
    ],
)
def test_donors_that_cannot_be_fitted_are_refused(ill, model, key, options, message):
    with pytest.raises(ValueError, match=message):
        fit_few_shot(
            treated(ill), key, model=model, options=FewShotOptions(target="donor", **options)
        )


def test_options_that_do_not_go_together(ill, model):
    with pytest.raises(ValueError, match="target must be one of type, state, donor, got 'mood'"):
        FewShotOptions(target="mood")
    with pytest.raises(ValueError, match="'state' is fitted to cells only: leave out labels"):
        FewShotOptions(target="state", labels=("ill",))
    with pytest.raises(ValueError, match="type_key needs target='donor', got target='type'"):
        FewShotOptions(type_key="kind")
    options = FewShotOptions(target="donor", group_key="donor")
    head = fit_few_shot(ill, "disease", model=model, options=options).head
    with pytest.raises(ValueError, match="labels donors, not cells: use langcell fewshot donors"):
        AnnotateOptions(head=head)
    options = FewShotOptions(target="state", group_key="donor")
    head = fit_few_shot(ill, "disease", model=model, options=options).head
    with pytest.raises(ValueError, match="give another key_added, such as langcell_state"):
        AnnotateOptions(head=head)
    with pytest.raises(ValueError, match="calls the state of cells, not donors"):
        call_donors(ill, head, "donor", model=model)


def test_commands(ill, tiny_bag, tmp_path):
    treated(ill).write_h5ad(tmp_path / "cells.h5ad")

    def run(*words):
        return run_langcell(tmp_path, *words, "--model", tiny_bag)

    fit = ("fewshot", "fit", "--h5ad", "cells.h5ad", "--label-key")
    done = run(*fit, "disease", "--target", "state", "--out", "bad")
    assert done.returncode == 1 and "pass --group-key donor" in done.stderr
    assert not (tmp_path / "bad").exists()
    done = run(*fit, "condition", "--target", "state", "--group-key", "donor", "--out", "state")
    assert done.returncode == 0, done.stderr
    assert "head\tlinear, 2 states of cells, 120 cells" in done.stdout
    assert "0.5000 majority label" in done.stdout and "as text" not in done.stdout
    done = run("zeroshot", "--h5ad", "cells.h5ad", "--head", "state", "--out", "named.h5ad")
    assert done.returncode == 0, done.stderr
    named = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert set(named.obs["langcell_state_leaf_label"]) == {"control", "treated"}
    words = ("--h5ad", "cells.h5ad", "--head", "state", "--out", "again.h5ad")
    done = run("fewshot", "predict", *words)
    assert done.returncode == 0, done.stderr
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert again.obs["langcell_state_leaf_label"].equals(named.obs["langcell_state_leaf_label"])
    assert not any(each.startswith("langcell_label") for each in again.obs)
    words = ("--head", "state", "--key-added", "langcell", "--out", "bad.h5ad")
    done = run("zeroshot", "--h5ad", "cells.h5ad", *words)
    assert done.returncode == 1 and "give another --key-added" in done.stderr
    done = run(*fit, "disease", "--target", "donor", "--group-key", "donor", "--out", "donors")
    assert done.returncode == 0, done.stderr
    assert "label\t3 donors\tnormal" in done.stdout and "not calibrated" in done.stdout
    called = ("fewshot", "donors", "--h5ad", "cells.h5ad", "--head", "donors", "--donor-key")
    done = run(*called, "donor", "--out", "calls.tsv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "confidence\tnot calibrated: probabilities of the regression, from few donors",
        "wrote\tcalls.tsv",
    ]
    table = pd.read_csv(tmp_path / "calls.tsv", sep="\t", index_col="donor")
    assert table["label"].tolist() == ["normal", "B cell"] * 3
