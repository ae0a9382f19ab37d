import anndata
import numpy as np
import pandas as pd
import pytest

from langcell.counts.obs_columns import read_obs_column
from ontology.graph import Ontology
from zeroshot.labels.agreement import compare, compare_calls, confusion, named_truth, resolve_truth
from zeroshot.labels.comparison import label_spellings


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


def test_labels_are_resolved_and_never_guessed(ontology):
    labels = np.array(
        ["B cells", "CL:0000084", "", "weird", "weird", "cell", "B cell"], dtype=object
    )
    truth = resolve_truth(labels, ontology)
    assert truth.term_ids.tolist() == ["CL:0000236", "CL:0000084", "", "", "", "", "CL:0000236"]
    # "cell" is a term, but none that a call could be measured by.
    assert truth.unresolved == {"weird": 2, "cell": 1}
    assert truth.n_scored == 3


def test_a_finer_call_is_right_under_the_descendant_rule(ontology):
    truth = resolve_truth(np.array(["T cell", "T cell", "B cell", "B cell", "odd"]), ontology)
    # CD4-positive, alpha-beta T cell; lymphocyte; B cell; nothing; B cell
    called = np.array(["CL:0000624", "CL:0000542", "CL:0000236", "", "CL:0000236"], dtype=object)
    agreement = compare(truth, called, ontology)
    assert agreement.n_cells == 4 and agreement.n_types == 2
    assert agreement.accuracy == 0.25
    assert agreement.descendant_accuracy == 0.5
    assert agreement.majority_accuracy == 0.5
    assert 0 < agreement.hierarchical_f1 < 1
    assert np.isnan(agreement.macro_f1)
    assert agreement.macro_f1_all == pytest.approx((0 + 2 / 3) / 2)


def test_confusion_has_names_and_leaves_unscored_cells_out(ontology):
    truth = resolve_truth(np.array(["T cell", "T cell", "B cell", "odd"]), ontology)
    table = confusion(truth, np.array(["x", "y", "x", "z"], dtype=object), ontology)
    assert table.index.tolist() == ["T cell", "B cell"]
    assert table.loc["T cell"].to_dict() == {"x": 1, "y": 1}
    assert table.loc["B cell"].to_dict() == {"x": 1, "y": 0}


MIXED = ("CL:0000236", "text: CD4T", "text: T cell")


def test_labels_of_a_head_come_before_the_ontology(ontology):
    spellings = label_spellings(MIXED, ontology)
    values = np.array(
        ["CD4T", "text: CD4T", "T cell", "B cells", "NK cell", "odd", ""], dtype=object
    )
    truth = resolve_truth(values, ontology, spellings)
    assert truth.term_ids.tolist() == [
        *("text: CD4T", "text: CD4T", "text: T cell", "CL:0000236", "CL:0000623", "", ""),
    ]
    assert truth.unresolved == {"odd": 1} and truth.n_scored == 5
    assert resolve_truth(values, ontology).unresolved == {"CD4T": 1, "odd": 1, "text: CD4T": 1}
    named = named_truth(values[:1], "mine", ontology, spellings)
    assert named.term_ids.tolist() == ["text: CD4T"]
    with pytest.raises(
        ValueError, match="names a cell type of the Cell Ontology or a label of the"
    ):
        named_truth(values[5:], "mine", ontology, spellings)


def test_labels_of_a_head_judge_each_other(ontology):
    """A column that uses the words of a head would have used them where they apply."""
    values = np.array(["CD4T", "CD4T", "B cell", "B cell", "NK cell"], dtype=object)
    truth = resolve_truth(values, ontology, label_spellings(MIXED, ontology))
    called = np.array(["text: CD4T", "CL:0000236", "text: CD4T", "CL:0000236", "text: CD4T"])
    # Natural killer cells are no label of the head, so that nobody knows what its words hold.
    assert truth.comparable(called, ontology).tolist() == [True, True, True, True, False]
    judged = truth.only(truth.comparable(called, ontology))
    agreement = compare(judged, called, ontology)
    assert (agreement.n_cells, agreement.n_types) == (4, 2)
    assert agreement.accuracy == agreement.descendant_accuracy == 0.5
    assert agreement.macro_f1_all == 0.5 and 0 < agreement.hierarchical_f1 < 1
    table = confusion(judged, called.astype(object), ontology)
    assert table.index.tolist() == ["B cell", "CD4T"] and table.to_numpy().sum() == 4


def test_words_are_neither_right_nor_wrong_by_a_column_of_terms(ontology):
    values = np.array(["CL:0000236", "CL:0000624", "CL:0000236", "CL:0000623"], dtype=object)
    truth = resolve_truth(values, ontology, label_spellings(MIXED, ontology))
    called = np.array(["CL:0000236", "text: CD4T", "text: CD4T", "CL:0000236"], dtype=object)
    assert truth.comparable(called, ontology).tolist() == [True, False, False, True]
    agreement = compare(truth.only(truth.comparable(called, ontology)), called, ontology)
    assert agreement.n_cells == 2 and agreement.accuracy == 0.5


def test_a_broader_call_is_not_judged_by_words(ontology):
    values = np.array(["CD4T", "CD4T", "B cell", "B cell"], dtype=object)
    truth = resolve_truth(values, ontology, label_spellings(MIXED, ontology))
    called = np.array(["text: CD4T", "CL:0000542", "CL:0000542", ""], dtype=object)
    found = compare_calls(truth, called, ontology)
    assert found.call_coverage == 0.75 and found.call_accuracy == 1 and found.call_exact == 0.5
    assert found.call_depth == (1 + ontology.depth("CL:0000542")) / 2
    alone = compare_calls(truth.only(np.array([False, True, False, False])), called, ontology)
    assert alone.call_coverage == 1 and np.isnan(alone.call_accuracy)


def test_nothing_to_score_is_an_error(ontology):
    truth = resolve_truth(np.array(["odd", "even"]), ontology)
    with pytest.raises(ValueError, match="no label is a cell type.*even, odd"):
        compare(truth, np.array(["CL:0000236"] * 2), ontology)


def test_a_column_is_read_from_every_source(tmp_path):
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(["a", None, "b"]),
            "number": [1, 2, 3],
            "gap": [1, None, 3],
            "share": [1, None, 0.5],
        },
        index=list("xyz"),
    )
    adata = anndata.AnnData(X=np.ones((3, 2), np.float32), obs=obs)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for source in (adata, tmp_path / "cells.h5ad"):
        assert read_obs_column(source, "label").tolist() == ["a", "", "b"]
        assert read_obs_column(source, "number").tolist() == ["1", "2", "3"]
        assert read_obs_column(source, "gap").tolist() == ["1", "", "3"]
        assert read_obs_column(source, "share").tolist() == ["1.0", "", "0.5"]
        with pytest.raises(
            ValueError, match="no column 'nope' in obs; it has label, number, gap, share"
        ):
            read_obs_column(source, "nope")
    with pytest.raises(ValueError, match="has no obs table"):
        read_obs_column(tmp_path, "label")
