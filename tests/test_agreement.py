import anndata
import numpy as np
import pandas as pd
import pytest

from ontology.graph import Ontology
from zeroshot.agreement import compare, confusion, read_obs_column, resolve_truth


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


def test_nothing_to_score_is_an_error(ontology):
    truth = resolve_truth(np.array(["odd", "even"]), ontology)
    with pytest.raises(ValueError, match="none of the labels is a cell type.*even, odd"):
        compare(truth, np.array(["CL:0000236"] * 2), ontology)


def test_a_column_is_read_from_every_source(tmp_path):
    obs = pd.DataFrame(
        {"label": pd.Categorical(["a", None, "b"]), "number": [1, 2, 3]}, index=list("xyz")
    )
    adata = anndata.AnnData(X=np.ones((3, 2), np.float32), obs=obs)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for source in (adata, tmp_path / "cells.h5ad"):
        assert read_obs_column(source, "label").tolist() == ["a", "", "b"]
        assert read_obs_column(source, "number").tolist() == ["1", "2", "3"]
        with pytest.raises(ValueError, match="no column 'nope' in obs; it has label, number"):
            read_obs_column(source, "nope")
    with pytest.raises(ValueError, match="has no table of cells"):
        read_obs_column(tmp_path, "label")
