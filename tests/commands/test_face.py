"""The public face: plain keywords, helpful errors, results that show themselves."""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import pytest

import langcell as lc
from tests.support.command_line import run_langcell

OPTIONS = {
    "annotate": lc.AnnotateOptions,
    "explain": lc.ExplainOptions,
    "export": lc.ExportOptions,
    "fit_few_shot": lc.FewShotOptions,
    "report": lc.ReportOptions,
    "search": lc.SearchOptions,
}
LABELS = "B cell; T cell; monocyte"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_a_keyword_with_the_same_default(name):
    parameters = inspect.signature(getattr(lc, name)).parameters
    for each in dataclasses.fields(OPTIONS[name]):
        if each.name != "command":  # written by commands alone
            assert parameters[each.name].default == each.default, each.name


@pytest.mark.parametrize(
    "name",
    [*OPTIONS, "assign", "calibrate", "call_donors", "consensus", "embed", "rank_genes", "smooth"],
)
def test_help_names_every_keyword(name):
    function = getattr(lc, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert parameter in text, (name, parameter)


def test_unknown_keywords_are_told_where_they_belong(make_cells):
    with pytest.raises(TypeError, match=r"'cluster_key'; it belongs to .*langcell.consensus\(\)"):
        lc.annotate(make_cells(3), cluster_key="leiden")
    with pytest.raises(TypeError, match="did you mean 'confidence'"):
        lc.annotate(make_cells(3), confidense=0.5)
    with pytest.raises(TypeError, match="'wibble'; it has adata, strength"):
        lc.smooth(make_cells(3), wibble=1)


def test_errors_name_the_keyword_and_not_a_flag(make_cells):
    with pytest.raises(ValueError, match="^confidence must be between 0 and 1, got 5"):
        lc.annotate(make_cells(3), confidence=5)


def test_options_are_given_whole_or_by_keywords(make_cells):
    with pytest.raises(ValueError, match=r"AnnotateOptions\(confidence=...\)"):
        lc.annotate(make_cells(3), confidence=0.5, options=lc.AnnotateOptions())


@pytest.fixture(scope="module")
def named(make_cells, tiny_bag):
    adata = make_cells(30)
    adata.obs["cluster"] = ["0", "1", "2"] * 10
    return adata, lc.annotate(adata, LABELS, model=tiny_bag)


def test_a_string_is_several_labels_and_results_are_short(named):
    adata, annotations = named
    assert annotations.candidates.names == ("B cell", "T cell", "monocyte")
    for text in (repr(annotations), annotations._repr_html_()):
        assert "30 cells annotated among 3 labels" in text and len(text) < 3000
    assert annotations.summary()["cells"].sum() == 30
    assert (adata.obs["langcell_label"].to_numpy() == annotations.labels).all()


def test_one_cluster_is_explained(named, tiny_bag):
    adata, _ = named
    every = lc.explain(adata, cluster_key="cluster", labels=LABELS, model=tiny_bag)
    one = lc.explain(adata, cluster="1", cluster_key="cluster", labels=LABELS, model=tiny_bag)
    assert set(one["target"]) == {"1"}
    expected = every[every["target"] == "1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one.reset_index(drop=True), expected)
    with pytest.raises(ValueError, match="no cluster '7'; it has 0, 1, 2"):
        lc.explain(adata, cluster="7", cluster_key="cluster", labels=LABELS, model=tiny_bag)
    with pytest.raises(ValueError, match="cluster='1' needs cluster_key"):
        lc.explain(adata, cluster="1", labels=LABELS, model=tiny_bag)


def test_a_fitted_head_annotates(named, make_cells, tiny_bag):
    adata, annotations = named
    adata.obs["label"] = np.array(["B cell", "T cell"] * 15)
    fitted = lc.fit_few_shot(adata, "label", model=tiny_bag)
    assert "B cell" in repr(fitted) and len(repr(fitted.head)) < 300
    found = lc.annotate(make_cells(6), head=fitted, model=tiny_bag)
    assert set(found.names) <= {"B cell", "T cell"}


def test_embeddings_go_to_obsm(make_cells, tiny_bag):
    adata = make_cells(5)
    features = lc.embed(adata, model=tiny_bag)
    assert features.dtype == np.float32 and features.shape == (5, 16)
    np.testing.assert_array_equal(adata.obsm["X_langcell"], features)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="exists already; replace it with overwrite=True"):
        lc.embed(adata, model=tiny_bag)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_cells):
    folder = tmp_path_factory.mktemp("face")
    make_cells(12).write_h5ad(folder / "cells.h5ad")
    make_cells(9).write_h5ad(folder / "more.h5ad")
    return folder


def test_inputs_need_no_flag(folder, tiny_bag):
    words = ("--model", tiny_bag, "--labels", LABELS, "--threads", 1)
    calls = {}
    for name, command in {
        "plain": ("annotate", "cells.h5ad", *words),
        "late": ("annotate", *words, "cells.h5ad"),
        "flag": ("zeroshot", "--h5ad", "cells.h5ad", *words),
    }.items():
        done = run_langcell(folder, *command, "--out", f"{name}.csv")
        assert done.returncode == 0, done.stderr
        calls[name] = (folder / f"{name}.csv").read_bytes()
    assert calls["plain"] == calls["late"] == calls["flag"]
    done = run_langcell(
        folder,
        "annotate",
        "cells.h5ad",
        "more.h5ad",
        *words,
        "--out",
        "both",
        "--format",
        "csv",
    )
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "both").iterdir())) == 2


def test_an_input_is_named_once(folder):
    done = run_langcell(folder, "embed", "cells.h5ad", "--h5ad", "more.h5ad")
    assert done.returncode == 2 and "two inputs are named, cells.h5ad and more.h5ad" in done.stderr
    done = run_langcell(folder, "embed")
    assert done.returncode == 2 and "name the file to read" in done.stderr


@pytest.mark.parametrize("command", ["annotate", "embed", "search", "fewshot", "pretrain"])
def test_short_help(command, folder):
    done = run_langcell(folder, command, "-h")
    assert done.returncode == 0 and f"langcell {command} [OPTIONS]" in done.stdout


def test_words_are_never_letters_nor_files(named, tiny_bag, tmp_path, monkeypatch):
    adata, _ = named
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").write_text("2\n")  # a file that is called as a cluster is
    one = lc.explain(adata, cluster=1, cluster_key="cluster", labels=LABELS, model=tiny_bag)
    assert set(one["target"]) == {"1"}
    adata.obs["named"] = ["CD4+/CD25 T Reg", "B"] * 15
    found = lc.explain(
        adata, cluster="CD4+/CD25 T Reg", cluster_key="named", labels=LABELS, model=tiny_bag
    )
    assert set(found["target"]) == {"CD4+/CD25 T Reg"}
    texts = lc.LangCell.from_pretrained(tiny_bag).encode_texts("cell type: B cell; T cell. ")
    assert texts.shape == (1, 16)
    (tmp_path / "types.txt").write_text("B cell\nT cell\n")
    listed = lc.annotate(adata, tmp_path / "types.txt", model=tiny_bag, key_added="listed")
    assert listed.candidates.names == ("B cell", "T cell")


@pytest.mark.parametrize("source", [5, None, np.zeros((2, 3)), pd.DataFrame({"a": [1]})])
def test_what_is_no_source_of_cells_is_named(source):
    with pytest.raises(TypeError, match="expected an AnnData, a MuData or the path of a file, got"):
        lc.annotate(source)
    with pytest.raises(TypeError, match="options must be AnnotateOptions, got dict"):
        lc.annotate("x.h5ad", options={"confidence": 0.5})
    with pytest.raises(TypeError, match="export reads a file, got"):
        lc.export(source, "y.h5ad", format="cap")


def test_a_keyword_beside_options_is_refused_even_as_its_default(make_cells):
    with pytest.raises(ValueError, match="confidence is given beside options"):
        lc.annotate(make_cells(3), confidence=0.9, options=lc.AnnotateOptions(confidence=0.5))


def test_a_star_import_brings_the_face():
    names: dict[str, object] = {}
    exec("from langcell import *", names)
    assert names["annotate"] is lc.annotate and names["report"] is lc.report
    assert lc.report.__name__ == "report" and lc.export.__name__ == "export"


def test_a_fitted_head_is_written(named, tiny_bag, tmp_path):
    adata, _ = named
    adata.obs["label"] = np.array(["B cell", "T cell"] * 15)
    fitted = lc.fit_few_shot(adata, "label", model=tiny_bag)
    lc.write_head(fitted, tmp_path / "head")
    assert lc.load_head(tmp_path / "head").keys == fitted.head.keys


def test_large_things_have_short_reprs(tiny_bag):
    model = lc.LangCell.from_pretrained(tiny_bag)
    things = [model.genes, model.label_embeddings, lc.all_candidates(lc.Ontology.bundled())]
    assert all(len(repr(thing)) < 100 for thing in things)
