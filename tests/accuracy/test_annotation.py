"""The table of annotators: label spaces, baselines, scores and what is printed."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import annotation
from benchmarks.accuracy.annotation_table import FileResult, print_tables, record_of, study_means
from benchmarks.baselines.annotators import LangCellAnnotator
from benchmarks.baselines.baseline import (
    Baseline,
    StudyMajority,
    TrainingMajority,
    TrainingSplit,
    narrowed_problem,
)
from benchmarks.baselines.label_mapping import candidate_scores, class_weights
from benchmarks.baselines.methods import METHODS, NAMES, missing_extra
from benchmarks.baselines.singler_baseline import reference_profiles
from benchmarks.data.studies import label_spaces, read_labelled_file, read_validation_files
from benchmarks.data.training_cells import TrainingRows, make_problem
from benchmarks.scoring.scoring import FIGURES, SpaceScore, mean_and_interval, score_space
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from ontology.tissues import TissueMap
from pretrain.recipe.config import Recipe
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.labels.candidates import own_candidates

B, CD4, CD8, T = "CL:0000236", "CL:0000624", "CL:0000625", "CL:0000084"
MONOCYTE, CLASSICAL = "CL:0000576", "CL:0000860"
TYPES = (B, CD4, MONOCYTE)


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


def _write(path, make_cells, *, seed, n_cells=40, genes=None):
    """Cells of three types, each with 15 genes of its own that it expresses strongly."""
    adata = make_cells(n_cells, seed=seed)
    which = np.arange(n_cells) % 3
    counts = adata.X.toarray()
    for row, each in enumerate(which):
        counts[row, each * 15 : each * 15 + 15] += 30
    adata.X = counts
    ids = np.array(TYPES, dtype=object)[which]
    ids[-1] = ""
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical(ids)
    adata.obs["tissue_ontology_term_id"] = pd.Categorical(["UBERON:0000178"] * n_cells)
    adata.obs["study"] = pd.Categorical([path.stem] * n_cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    (adata if genes is None else adata[:, genes].copy()).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_cells):
    """A corpus folder: two training files of which one lacks genes, two validation files."""
    folder = tmp_path_factory.mktemp("shared") / "corpus"
    _write(folder / "train" / "cells" / "one.h5ad", make_cells, seed=1)
    _write(folder / "train" / "cells" / "two.h5ad", make_cells, seed=2, genes=slice(0, 300))
    rows = []
    for name, seed in (("three", 3), ("four", 4)):
        _write(folder / "validation" / "cells" / f"{name}.h5ad", make_cells, seed=seed)
        rows.append(f"{name}\tvalidation\tcounts\tStudy {name}")
    rows.append("one\ttrain\tcounts\tStudy one")
    (folder / "manifest.tsv").write_text("name\trole\tscale\tstudy\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def recipe(corpus):
    return Recipe.model_validate(
        {
            "corpus_root": str(corpus),
            "sources": [{"files": ["train/cells/*.h5ad"], "kind": "cells", "scale": "counts"}],
        }
    )


@pytest.fixture(scope="module")
def split(recipe, ontology):
    return TrainingSplit(recipe, ontology)


@pytest.fixture(scope="module")
def file(corpus):
    return read_validation_files(corpus)[0]


def test_label_spaces_nest_and_never_hold_the_truth_for_its_own_sake(file, ontology):
    spaces = label_spaces(file, ontology, TissueMap(ontology))
    assert spaces["own"] == tuple(sorted(TYPES))
    assert set(spaces["tissue"]) < set(spaces["all"])
    neuron = "CL:0000679"  # glutamatergic neuron: not in blood, though it may be the label
    file.truth_ids[0], kept = neuron, file.truth_ids[0]
    try:
        again = label_spaces(file, ontology, TissueMap(ontology))
    finally:
        file.truth_ids[0] = kept
    assert neuron in again["own"]
    assert again["tissue"] == spaces["tissue"]


def test_cells_without_an_id_are_not_scored(file):
    assert file.n_cells == 39
    assert not file.is_labelled[-1]
    assert file.tissues == ("UBERON:0000178",)


def test_a_class_speaks_for_its_most_specific_candidate(ontology):
    classes = (CLASSICAL, T, B, CD4)
    weights = class_weights(classes, (MONOCYTE, CLASSICAL, CD4, CD8), ontology)
    np.testing.assert_array_equal(
        weights, [[0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 1, 0]]
    )
    coarse = class_weights(classes, (MONOCYTE, T), ontology)
    np.testing.assert_array_equal(coarse, [[1, 0], [0, 1], [0, 0], [0, 1]])


def test_classes_of_a_candidate_are_joined_and_the_others_are_never_called():
    scores = np.array([[0.2, 0.5, 0.3]], dtype=np.float32)
    weights = np.array([[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(candidate_scores(scores, weights, "sum"), [[0.75, 0.25, -np.inf]])
    np.testing.assert_allclose(candidate_scores(scores, weights, "max"), [[0.5, 0.5, -np.inf]])


def test_scores_of_a_space_by_hand(ontology):
    truth = np.array([T, T, MONOCYTE, B], dtype=object)
    candidates = (B, CD4, MONOCYTE, T)
    scores = np.eye(4)[[3, 1, 2, 2]]  # T, CD4, monocyte, monocyte
    found = score_space(truth, scores, candidates, ontology)
    assert found.accuracy == 0.5
    assert found.descendant == 0.75
    assert found.top5 == 1.0
    assert np.isnan(found.macro_f1)  # no type has ten cells
    assert found.macro_f1_all == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    steps = [0, ontology.distance(T, CD4), 0, ontology.distance(B, MONOCYTE)]
    assert found.distance == pytest.approx(np.mean(steps))


def test_unmeasured_genes_are_unknown_and_not_zero(split, file):
    problem = split.problem(file)
    assert problem.train.shape[1] == problem.cells.shape[1] == len(problem.ensembl_ids)
    assert problem.cells.shape[0] == file.n_cells
    lacking = ~problem.is_measured
    assert lacking.any() and not lacking.all(axis=0).any()
    for gene in np.flatnonzero(lacking.any(axis=0))[:5]:
        known = problem.train[problem.is_measured[:, gene], gene]
        np.testing.assert_allclose(problem.train[lacking[:, gene], gene], known.mean(), rtol=1e-4)
    # A row that lacks a quarter of the genes has the level of one that has them all.
    has_all = problem.is_measured.all(axis=1)
    shared = problem.is_measured.all(axis=0)
    levels = [
        np.expm1(problem.train[rows][:, shared]).sum(axis=1).mean() for rows in (has_all, ~has_all)
    ]
    assert levels[0] == pytest.approx(levels[1], rel=0.1)


def test_a_gene_that_few_rows_measure_is_left_out(split, file):
    of_two = split.corpus.source == 1
    rows = TrainingRows(
        values=split.corpus.values[of_two],
        source=split.corpus.source[of_two],
        term=split.corpus.term[of_two],
    )
    problem = make_problem(split.corpus, rows, file)
    assert problem.is_measured.all()
    assert len(problem.ensembl_ids) < len(split.problem(file).ensembl_ids)


@pytest.mark.parametrize("name", METHODS)
def test_a_baseline_finds_types_with_strong_markers(name, split, file, tmp_path, monkeypatch):
    if extra := missing_extra(name):
        pytest.skip(f"needs the extra {extra}")
    baseline = Baseline(METHODS[name], split, tmp_path)
    candidates = tuple(sorted(TYPES))
    scores = baseline.scores(file, candidates)
    assert scores.shape == (file.n_cells, 3)
    called = np.array(candidates, dtype=object)[scores.argmax(axis=1)]
    assert np.mean(called == file.truth_ids) > 0.9
    # The second time nothing is fitted.
    monkeypatch.setattr(split, "problem", None)
    np.testing.assert_array_equal(baseline.scores(file, candidates), scores)


def test_few_candidates_become_the_classes(split, file, ontology):
    problem = split.problem(file)
    narrowed = narrowed_problem(problem, (CD8, T, CLASSICAL), ontology)
    assert narrowed.classes == (T, CLASSICAL)  # CD4 T cells are T cells, monocytes the nearest
    kept = np.isin(np.array(problem.classes)[problem.labels], [CD4, MONOCYTE])
    np.testing.assert_array_equal(narrowed.train, problem.train[kept])
    was = np.array(problem.classes)[problem.labels[kept]]
    now = np.array(narrowed.classes)[narrowed.labels]
    assert set(zip(was.tolist(), now.tolist(), strict=True)) == {(CD4, T), (MONOCYTE, CLASSICAL)}


def test_references_are_means_of_a_class_and_source(split, file):
    problem = split.problem(file)
    profiles, labels = reference_profiles(problem)
    assert len(profiles) == 6  # three types in two files
    first = (problem.labels == 0) & (problem.source == 0)
    np.testing.assert_allclose(profiles[0], problem.train[first].mean(axis=0), rtol=1e-4)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_missing_package_leaves_its_baseline_out(corpus, ontology, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.baselines.methods.find_spec", lambda name: None)
    chosen, left_out = annotation.choose_baselines("singler,markers", corpus, ontology, tmp_path)
    assert [each.name for each in chosen] == ["markers"]
    assert left_out == ["singler left out: not installed; pip install 'langcell[singler]'"]


def test_scores_are_made_anew_for_other_cells(split, file, corpus, tmp_path, make_cells):
    method = METHODS["markers"]
    Baseline(method, split, tmp_path).scores(file, TYPES)
    other = _write(tmp_path / "three.h5ad", make_cells, seed=9)
    Baseline(method, split, tmp_path).scores(
        read_labelled_file(other, study="Study", scale="counts"), TYPES
    )
    assert len(list(tmp_path.glob("markers-three-*.npz"))) == 2


def test_majorities(split, file):
    called = TrainingMajority(split).scores(file, TYPES)
    assert called.shape == (file.n_cells, 3)
    # 40 rows a file: the type of rows 0, 3, ... but not the last, which has no id.
    assert called[0].tolist() == [26, 26, 26]
    assert StudyMajority().scores(file, (B, T)).tolist()[0] == [13, 0]


def test_a_model_scores_cells_as_the_annotator_does(tiny_model, file, ontology):
    model = LangCell.from_pretrained(tiny_model)
    annotator = LangCellAnnotator("tiny", model, ontology, AnnotateOptions())
    own = annotator.scores(file, TYPES)
    assert own.shape == (file.n_cells, 3)
    spaces = label_spaces(file, ontology, TissueMap(ontology))
    everything = annotator.scores(file, spaces["all"])
    assert everything.shape == (file.n_cells, len(spaces["all"]))
    assert own_candidates(TYPES, ontology).ids == TYPES  # columns keep their order
    adata = anndata.read_h5ad(file.path)
    annotate(adata, model=model, labels=TYPES)
    written = adata.obsm["langcell_scores"].toarray()[file.is_labelled]
    np.testing.assert_allclose(np.exp(own), written, atol=1e-5)
    annotate(adata, model=model, options=AnnotateOptions(overwrite=True))
    called = adata.obs["langcell_leaf_ontology_term_id"].to_numpy()[file.is_labelled]
    best = [spaces["all"][column] for column in everything.argmax(axis=1)]
    assert called.tolist() == best


def _result(annotator, file, value):
    score = SpaceScore(**dict.fromkeys(FIGURES, value))
    return FileResult(
        annotator=annotator,
        file=file,
        sizes={"own": 3, "tissue": 5, "all": 9},
        covered=1.0,
        scores=dict.fromkeys(("own", "tissue", "all"), score),
    )


def test_files_of_one_study_are_averaged_before_studies(corpus):
    three, four = read_validation_files(corpus)
    twin = read_labelled_file(three.path, study=three.study, scale="counts")
    results = [_result("x", three, 0.2), _result("x", twin, 0.4), _result("x", four, 0.9)]
    own = study_means(results, "x", "own")["accuracy"]
    assert own.to_dict() == pytest.approx({"Study three": 0.3, "Study four": 0.9})
    mean, low, high = mean_and_interval(own.to_numpy())
    assert mean == pytest.approx(0.6)
    assert low == pytest.approx(0.3) and high == pytest.approx(0.9)


def test_the_table_names_what_was_left_out(corpus, capsys):
    results = [_result("x", each, float("nan")) for each in read_validation_files(corpus)]
    print_tables(results, ["singler left out: pip install"])
    printed = capsys.readouterr().out
    assert "singler left out" in printed
    assert printed.count("\nx ") == 2 + 2 * 3
    record = json.loads(json.dumps(record_of(results)))
    assert record["mean"]["x"]["own"]["accuracy"] == [None, None, None]


def test_the_command_ends_in_one_json_line(corpus, tiny_model, tmp_path, monkeypatch, capsys):
    recipe_file = tmp_path / "tiny.yaml"
    recipe_file.write_text("sources: [{files: ['train/cells/*.h5ad']}]\n")
    monkeypatch.setattr("benchmarks.data.training_cells.find_recipe", lambda name: recipe_file)
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "figures.json"
    words = ["annotation", "--model", str(tiny_model), "--baselines", "majority,markers"]
    words += ["--shared", str(corpus.parent), "--json", str(out), "--threads", "1"]
    monkeypatch.setattr("sys.argv", words)
    annotation.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record == json.loads(out.read_text())
    assert list(record["mean"]) == [str(tiny_model), "majority", "oracle-majority", "markers"]
    assert record["files"]["three"]["scores"]["markers"]["own"]["accuracy"] > 0.9
    assert record["mean"]["markers"]["own"]["accuracy"][0] > 0.9


def test_an_unknown_baseline_is_named(corpus, ontology, tmp_path):
    with pytest.raises(ValueError, match="unknown baseline 'svm'; known: all, none, majority"):
        annotation.choose_baselines("svm", corpus, ontology, tmp_path)
    chosen, _ = annotation.choose_baselines("none", corpus, ontology, tmp_path)
    assert chosen == []
    assert "majority" in NAMES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nothing/here/at/all"], "nothing/here/at/all"),
        (["--model", "none", "--json", "no_such_folder/x.json"], "there is no folder"),
        (["--model", "none", "--shared", "no_such_folder"], "name its folder with --shared"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(words, message, monkeypatch):
    monkeypatch.setattr("sys.argv", ["annotation", "--baselines", "none", "--threads", "1", *words])
    with pytest.raises(SystemExit, match=message) as stopped:
        annotation.main()
    assert "\n" not in str(stopped.value)


def test_reranking_scores_the_best_candidates_alone(tiny_model, file, ontology):
    model = LangCell.from_pretrained(tiny_model)
    options = AnnotateOptions(rerank=2, top_k=2)
    scores = LangCellAnnotator("tiny", model, ontology, options).scores(file, TYPES)
    assert scores.shape == (file.n_cells, 3)
    assert np.isfinite(scores).sum(axis=1).tolist() == [2] * file.n_cells
