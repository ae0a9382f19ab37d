"""Heads of a few labelled cells: fitted, judged, written, used and refused."""

import json
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from langcell.model.langcell import LangCell
from langcell.nn.config import LangCellConfig
from langcell.tokens.tokenizer import TokenBlock
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from tests.support.command_line import run_langcell
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.commands.run import confidence_words
from zeroshot.confidence.calibration import UNCALIBRATED, CalibrationCurve
from zeroshot.fit import fit_few_shot as few_shot
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.fit_head import LabelledCells, choose_kind, fit_head, held_out
from zeroshot.fit.head_card import head_card, head_lines
from zeroshot.fit.labelled_cells import sample_labelled
from zeroshot.fit.options import FewShotOptions
from zeroshot.heads.few_shot_head import rank_weights
from zeroshot.heads.head_file import read_head, write_head

WORDS = "a cell that glows"


@pytest.fixture(scope="module")
def model(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture
def labelled(make_cells):
    """Two types and one of the author's own, told apart by 40 genes each; some have no label."""
    adata = make_cells(90)
    rng = np.random.default_rng(0)
    dense = adata.X.toarray()
    labels = np.array(["B cell", "T cells", WORDS] * 30, dtype=object)
    for row, label in enumerate(["B cell", "T cells", WORDS]):
        inside = np.flatnonzero(labels == label)
        dense[np.ix_(inside, range(40 * row, 40 * row + 40))] += rng.poisson(6, (len(inside), 40))
    adata.X = type(adata.X)(dense.astype(np.float32))
    labels[60:70], labels[70:75] = "", "unknown"
    adata.obs["mine"] = pd.Categorical(labels)
    adata.obs["donor"] = [f"d{row % 4}" for row in range(90)]
    return adata


def make_shots(labels, *, n_labels=3, seed=0, groups=None) -> LabelledCells:
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    n = len(labels)
    features = rng.normal(size=(n, 8)) + 2 * np.eye(8)[labels]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cells = [np.r_[50 + label, rng.permutation(40)[:9]] for label in labels]
    texts = rng.normal(size=(n, n_labels)).astype(np.float32)
    unit = rng.normal(size=(n_labels, 8))
    return LabelledCells(
        labels=labels,
        keys=tuple(f"CL:{each:07d}" for each in range(n_labels)),
        label_features=unit / np.linalg.norm(unit, axis=1, keepdims=True),
        texts=texts - np.log(np.exp(texts).sum(axis=1, keepdims=True)),
        features=features.astype(np.float32),
        tokens=TokenBlock(
            start=0,
            tokens=np.concatenate(cells).astype(np.uint16),
            offsets=np.append(0, np.cumsum([len(each) for each in cells])),
        ),
        groups=groups,
    )


def test_a_model_without_texts_is_refused_before_cells_are_read(model, labelled, monkeypatch):
    monkeypatch.setattr(LangCellConfig, "has_texts", False)
    monkeypatch.setattr(few_shot, "read_cells", None)
    with pytest.raises(ValueError, match="has no text tower: it can only embed cells"):
        fit_few_shot(labelled, "mine", model=model)


def test_ranks_weigh_by_hand():
    tokens = TokenBlock(
        start=0, tokens=np.array([7, 5, 9, 5], np.uint16), offsets=np.array([0, 3, 3, 4])
    )
    found = rank_weights(tokens, np.array([5, 7])).toarray()
    assert found == pytest.approx(np.array([[1 / np.sqrt(1 + 1 / 16), 1], [0, 0], [1, 0]]))


@pytest.mark.parametrize("labels", [[0, 1, 2] * 4, [0, 1] * 5])
def test_a_linear_head_is_two_regressions_and_the_texts(labels):
    shots = make_shots(labels)
    head = fit_head(shots, "linear", model="m", model_sha256="s")
    found = head.log_probabilities(shots.texts, shots.features, shots.tokens)
    assert np.exp(found).sum(axis=1) == pytest.approx(1, abs=1e-6)
    genes = rank_weights(shots.tokens, head.gene_tokens).toarray()
    seen = np.unique(labels)
    wanted = shots.texts[:, seen] * head.text_weight
    for inputs, c in ((shots.features.astype(float), 30.0), (genes, 3.0)):
        wanted = wanted + LogisticRegression(C=c, max_iter=500).fit(
            inputs, labels
        ).predict_log_proba(inputs)
    difference = found[:, seen] - wanted
    assert difference - difference[:, :1] == pytest.approx(np.zeros_like(difference), abs=1e-4)
    assert head.text_weight == pytest.approx(1 / np.sqrt(np.median(np.bincount(labels))))


def test_a_label_without_cells_is_reached_by_its_text():
    shots = make_shots([0, 1] * 6)
    head = fit_head(shots, "linear", model="m", model_sha256="s")
    assert head.n_shots.tolist() == [6, 6, 0] and not head.feature_weights[2].any()
    texts = shots.texts.copy()
    texts[:, 2] = 60.0
    found = head.log_probabilities(texts, shots.features, shots.tokens)
    assert (found.argmax(axis=1) == 2).all()


def test_prototypes_are_means_of_cells_and_text():
    shots = make_shots([0, 0, 1])
    head = fit_head(shots, "prototype", model="m", model_sha256="s")
    for label, rows in ((0, [0, 1]), (1, [2]), (2, [])):
        mean = shots.features[rows].sum(axis=0) + shots.label_features[label]
        assert head.feature_weights[label] == pytest.approx(
            20 * mean / np.linalg.norm(mean), abs=1e-5
        )
    assert choose_kind(shots) == "linear" and choose_kind(make_shots([1, 1])) == "prototype"
    with pytest.raises(ValueError, match="needs cells of at least two labels, got one; label"):
        fit_head(make_shots([1, 1]), "linear", model="m", model_sha256="s")


def test_no_cell_is_judged_by_a_head_that_saw_it_or_its_group():
    groups = np.array(["x", "y", "z"] * 4)
    shots = make_shots([0, 1, 2, 0] * 3, groups=groups)
    folds = list(held_out(shots, "linear"))
    assert sorted(np.concatenate([rows for rows, _ in folds])) == list(range(12))
    assert all(len(set(groups[rows])) == 1 for rows, _ in folds)
    rows, found = folds[0]
    rest = shots.part(np.setdiff1d(np.arange(12), rows))
    left = shots.part(rows)
    again = fit_head(rest, "linear", model="", model_sha256="")
    wanted = again.log_probabilities(left.texts, left.features, left.tokens)
    assert found.tolist() == wanted.tolist()
    assert not list(held_out(make_shots([0, 1, 1]), "linear")), "a label has one cell"


def test_which_cells_are_drawn_depends_on_the_label_and_seed_alone():
    codes = np.array([0] * 20 + [1] * 20 + [-1] * 5)
    drawn = sample_labelled(codes, ("a", "b"), 3, seed=1)
    assert np.bincount(codes[drawn]).tolist() == [3, 3]
    shifted = sample_labelled(np.where(codes == 1, 2, -1), ("x", "a", "b"), 3, seed=1)
    assert shifted.tolist() == drawn[3:].tolist()
    assert sample_labelled(codes, ("a", "b"), 3, seed=2).tolist() != drawn.tolist()
    assert len(sample_labelled(codes, ("a", "b"), None, seed=0)) == 40


def test_a_head_learns_labels_of_the_ontology_and_of_ones_own(labelled, model, tmp_path):
    options = FewShotOptions(labels=("natural killer cell",), group_key="donor")
    fitted = fit_few_shot(labelled, "mine", model=model, options=options)
    assert set(fitted.head.keys) == {
        *("CL:0000236", "CL:0000084", f"text: {WORDS}", "CL:0000623"),
    }
    assert fitted.as_text == (WORDS,) and fitted.n_without == 15
    assert fitted.accuracy > 0.85 > 0.5 > fitted.zero_shot_accuracy
    assert fitted.held_out == "75 cells, cross-validated by donor"
    assert fitted.is_calibrated
    annotations = annotate(labelled, model=model, options=AnnotateOptions(head=fitted.head))
    has_label = np.r_[0:60, 75:90]
    wanted = labelled.obs["mine"].astype(str).replace({"T cells": "T cell"}).to_numpy()
    assert (annotations.names[has_label] == wanted[has_label]).mean() > 0.95
    notes = labelled.uns["langcell"]
    assert notes["head"] == {
        "id": fitted.head.identifier,
        "kind": "linear",
        "target": "type",
        "n_cells": 75,
    }
    assert notes["calibration"]["fitted_on"] == "cells held out from the head"


def test_a_head_that_is_written_gives_the_same_calls(labelled, model, tmp_path):
    options = FewShotOptions(shots=4)
    fitted = fit_few_shot(labelled, "mine", model=model, options=options)
    assert not fitted.is_calibrated and fitted.head.n_shots.tolist() == [4, 4, 4]
    write_head(fitted.head, tmp_path / "head", card=head_card(fitted, command="langcell x"))
    again = read_head(tmp_path / "head")
    assert again.identifier == fitted.head.identifier
    assert "12 cells" in (tmp_path / "head" / "README.md").read_text()
    first = annotate(labelled.copy(), model=model, options=AnnotateOptions(head=fitted.head))
    second = annotate(labelled.copy(), model=model, options=AnnotateOptions(head=again))
    assert first.table().equals(second.table())
    labelled.write_h5ad(tmp_path / "cells.h5ad")
    from_file = fit_few_shot(tmp_path / "cells.h5ad", "mine", model=model, options=options)
    assert from_file.head.identifier == again.identifier


def test_the_calibration_of_the_model_is_not_that_of_the_head(labelled, model, monkeypatch):
    brought = replace(UNCALIBRATED, given=CalibrationCurve(slope=0.5), model_sha256=model.sha256)
    monkeypatch.setattr(model, "calibration", brought.to_json())
    fitted = fit_few_shot(labelled, "mine", model=model, options=FewShotOptions(shots=4))
    assert not fitted.is_calibrated and fitted.head.calibration == brought
    lines = "\n".join(head_lines(fitted))
    assert "confidence\tcalibrated for the model without a head" in lines
    few = annotate(labelled.copy(), model=model, options=AnnotateOptions(head=fitted.head))
    assert few.details["calibration"]["learnt_for"] == "model"
    words = "for the model without the head, and not for this head, so take it as rough"
    assert f"calibrated ({brought.identifier}) {words}" in confidence_words(few)
    given = AnnotateOptions(head=fitted.head, calibration=brought)
    by_hand = annotate(labelled.copy(), model=model, options=given)
    assert by_hand.details["calibration"]["learnt_for"] == "given"
    fitted = fit_few_shot(labelled, "mine", model=model)
    assert "confidence" not in "\n".join(head_lines(fitted))
    many = annotate(labelled.copy(), model=model, options=AnnotateOptions(head=fitted.head))
    assert many.details["calibration"]["learnt_for"] == "head"
    for each in (by_hand, many):
        assert "the share of such calls that are right" in confidence_words(each)


def test_a_head_no_better_than_no_labels_says_so(labelled, model):
    fitted = fit_few_shot(labelled, "mine", model=model)
    assert "warning" not in "\n".join(head_lines(fitted))
    as_good = replace(fitted, accuracy=0.6, zero_shot_accuracy=0.6, majority_accuracy=0.4)
    assert list(head_lines(as_good))[-1] == (
        "warning\tthe head is no better than a baseline: accuracy 0.6000, against 0.6000 without "
        "labels"
    )
    worse = replace(as_good, accuracy=0.3)
    assert "0.4000 by the majority label and 0.6000 without" in list(head_lines(worse))[-1]


@pytest.mark.parametrize("n_cells", [20])
def test_tiny_inputs_work(labelled, model, n_cells):
    few = labelled[:n_cells].copy()
    labels = np.array([""] * n_cells, dtype=object)
    labels[:3] = ["B cell", "T cell", "T cell"]
    few.obs["mine"] = labels
    fitted = fit_few_shot(few, "mine", model=model)
    assert fitted.head.kind == "linear" and fitted.held_out == ""
    assert fitted.head.n_shots.tolist() == [1, 2]
    labels[1:] = ""
    few.obs["mine"] = labels
    options = FewShotOptions(labels=("T cell",))
    assert fit_few_shot(few, "mine", model=model, options=options).head.kind == "prototype"


@pytest.mark.parametrize(
    ("label_key", "options", "message"),
    [
        ("celltype", {}, "no column 'celltype' in obs"),
        ("nothing", {}, r"no cell has a label in obs\['nothing'\]"),
        ("one", {}, "candidates need at least two different labels, got 1"),
        ("mine", {"group_key": "patient"}, "no column 'patient' in obs"),
        ("mine", {"labels": ("CL:9999999",)}, "no current term of release"),
    ],
)
def test_what_cannot_be_fitted_is_refused(labelled, model, label_key, options, message):
    labelled.obs["nothing"], labelled.obs["one"] = "unknown", "B cell"
    with pytest.raises(ValueError, match=message):
        fit_few_shot(labelled, label_key, model=model, options=FewShotOptions(**options))


def test_a_name_for_every_cell_is_no_label(labelled, model):
    labelled.obs["name"] = labelled.obs_names
    message = (
        r"obs\['name'\] has 90 different values in 90 cells, such as 'cell0': .* of cell names"
    )
    for target in ("type", "state"):
        with pytest.raises(ValueError, match=message) as error:
            fit_few_shot(labelled, "name", model=model, options=FewShotOptions(target=target))
        assert "\n" not in str(error.value)
    pairs = np.arange(90) // 2
    labelled.obs["name"] = [f"clone {each}" for each in pairs]
    assert len(fit_few_shot(labelled, "name", model=model).head.keys) == 45, "two cells share each"


def test_one_cell_of_each_of_many_types_is_learnt_without_a_word(make_cells, model):
    ontology = Ontology.bundled()
    terms = sorted(ontology.descendants("CL:0000084") & set(all_cell_types(ontology)))[:45]
    adata = make_cells(len(terms))
    adata.obs["mine"] = [ontology.terms[each].name for each in terms]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_few_shot(adata, "mine", model=model)
    assert fitted.head.n_shots.tolist() == [1] * 45
    lines = [line for line in head_lines(fitted) if line.startswith("label\t")]
    assert len(lines) == 41 and lines[-1] == "label\t... and 5 more"
    words = replace(fitted, as_text=tuple(f"w{row}" for row in range(43)))
    (line,) = (line for line in head_lines(words) if line.startswith("as text"))
    assert "w38; w39 ... and 3 more: no matching" in line and "w40" not in line


def test_options_out_of_range():
    with pytest.raises(
        ValueError,
        match="kind must be one of auto, linear, hierarchical, prototype, .*, got 'deep'",
    ):
        FewShotOptions(kind="deep")
    with pytest.raises(ValueError, match="shots must be at least 1"):
        FewShotOptions(shots=0)


@pytest.fixture
def head(labelled, model, tmp_path):
    fitted = fit_few_shot(labelled, "mine", model=model, options=FewShotOptions(shots=2))
    write_head(fitted.head, tmp_path / "head", card="")
    return tmp_path / "head"


def test_a_head_of_another_model_or_other_labels_is_refused(labelled, model, tiny_model, head):
    other = LangCell.from_pretrained(str(tiny_model))
    options = AnnotateOptions(head=read_head(head), calibration=UNCALIBRATED)
    with pytest.raises(ValueError, match="the head was fitted on model in memory .* other weights"):
        annotate(labelled, model=other, options=options)
    with pytest.raises(
        ValueError, match="has 3 labels of its own, and other candidates were given"
    ):
        annotate(labelled, model=model, labels=["B cell", "neuron"], options=options)
    with pytest.raises(ValueError, match="a head replaces reranking"):
        AnnotateOptions(head=read_head(head), rerank=3)


def test_damaged_heads_are_refused(head, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a head: it has no head.json"):
        read_head(tmp_path)
    weights = load_file(head / "head.safetensors")
    save_file({**weights, "intercepts": weights["intercepts"][:1]}, head / "head.safetensors")
    with pytest.raises(ValueError, match=r"intercepts must have shape \(3,\), got \(1,\)"):
        read_head(head)
    (head / "head.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="cannot read the head in"):
        read_head(head)
    described = json.loads((head / "head.json").read_text())
    (head / "head.json").write_text(json.dumps({**described, "format_version": 9}))
    with pytest.raises(ValueError, match="it has format 9, and this version reads 2; fit it again"):
        read_head(head)


def test_a_folder_of_other_things_is_never_replaced(head, tmp_path):
    again = read_head(head)
    with pytest.raises(
        FileExistsError, match="already holds a head; replace it with overwrite=True"
    ):
        write_head(again, head, card="")
    write_head(again, head, card="new", overwrite=True)
    assert (head / "README.md").read_text() == "new"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is not a head"):
        write_head(again, tmp_path / "data", card="", overwrite=True)
    assert (tmp_path / "data" / "thesis.txt").read_text() == "precious"


def test_command(labelled, tiny_bag, tmp_path):
    labelled.obs["terms"] = ["CL:0000236", "T cell", "NK cell"] * 30
    labelled.write_h5ad(tmp_path / "cells.h5ad")

    def run(*words, model=("--model", str(tiny_bag))):
        return run_langcell(tmp_path, *words, *model)

    fit = ("fewshot", "fit", "--h5ad", "cells.h5ad", "--label-key", "mine", "--out", "head")
    done = run(*fit)
    assert done.returncode == 0, done.stderr
    assert "head\tlinear, 3 labels, 75 cells" in done.stdout and "wrote\thead" in done.stdout
    assert f"as text\t{WORDS}" in done.stdout and "without\t15 cells" in done.stdout
    again = run(*fit)
    assert (
        again.returncode == 1
        and "already holds a head; replace it with --overwrite" in again.stderr
    )
    done = run("zeroshot", "--h5ad", "cells.h5ad", "--head", "head", "--out", "named.h5ad")
    assert done.returncode == 0, done.stderr
    named = anndata.read_h5ad(tmp_path / "named.h5ad")
    assert set(named.obs["langcell_leaf_label"]) == {"B cell", "T cell", WORDS}
    scored = ("--truth", "mine", "--overwrite")
    done = run("zeroshot", "--h5ad", "cells.h5ad", "--head", "head", "--out", "named.h5ad", *scored)
    assert "n_cells\t75\n" in done.stdout and f"{WORDS}\t{WORDS}" in done.stdout
    right = done.stdout.partition("accuracy\t")[2].partition("\n")[0]
    assert float(right) > 0.95 and "called by words" not in done.stdout
    scored = ("--truth", "terms", "--overwrite")
    done = run("zeroshot", "--h5ad", "cells.h5ad", "--head", "head", "--out", "named.h5ad", *scored)
    assert "not scored\t30 cells called by words of your own" in done.stdout
    assert "n_cells\t60\n" in done.stdout and "accuracy\t1.0000" in done.stdout
    words = ("fewshot", "predict", "--h5ad", "cells.h5ad", "--head", "head", "--out", "again.h5ad")
    done = run(*words, model=())
    assert done.returncode == 0, done.stderr
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    columns = [each for each in again.obs if each.startswith("langcell_")]
    assert columns and again.obs[columns].equals(named.obs[columns])


def test_words_that_are_called_a_term_lower_its_confidence(make_cells, model):
    """The two labels cannot be told apart, and one of them is no term."""
    adata = make_cells(160)
    adata.obs["mine"] = ["B cell", "my tumour"] * 80
    fitted = fit_few_shot(adata, "mine", model=model)
    annotate(adata, model=model, options=AnnotateOptions(head=fitted.head))
    tumour = adata.obs["mine"] == "my tumour"
    wrong = adata.obs["langcell_label"][tumour] == "B cell"
    assert wrong.mean() < 0.2


def test_a_group_of_one_value_is_none(labelled, model):
    labelled.obs["donor"] = "d1"
    with pytest.warns(UserWarning, match="has only one value: cells are held out instead"):
        fitted = fit_few_shot(
            labelled, "mine", model=model, options=FewShotOptions(group_key="donor")
        )
    assert "cross-validated by cell" in fitted.held_out


def test_a_model_that_was_never_saved_has_no_head(labelled, model):
    unsaved = LangCell(model.config, model.vocabulary)
    with pytest.raises(ValueError, match="the model was never saved"):
        fit_few_shot(labelled, "mine", model=unsaved)
