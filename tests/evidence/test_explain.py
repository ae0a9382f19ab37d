"""Explanations: what the table holds, for cells and for clusters, and what is refused."""

import anndata
import numpy as np
import pandas as pd
import pytest

from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.annotation.annotate import annotate
from zeroshot.evidence.attribution import gene_effects
from zeroshot.evidence.explain import COLUMNS, ExplainOptions, explain
from zeroshot.evidence.targets import cluster_targets

pytestmark = pytest.mark.filterwarnings("ignore:low gene coverage")
OWN = ["B cell", "CD8-positive, alpha-beta T cell", "monocyte"]


@pytest.fixture(scope="module")
def model(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture
def adata(make_cells):
    return make_cells(30)


def test_a_cell_is_explained_by_the_effects_of_its_genes(adata, model):
    table = explain(adata, cells=["cell3"], model=model, options=ExplainOptions(n_genes=400))
    assert table.columns.tolist() == list(COLUMNS)
    called = annotate(adata, model=model)
    assert set(table["label"]) == {called.names[3]}
    genes = table[table["evidence"] == "label"]
    assert len(genes) == model.config.max_genes, "every gene that is read has an effect"
    assert genes["effect"].iloc[0] == genes["effect"].max() > 0
    lowering = genes["effect"][genes["effect"] < 0]
    assert len(lowering) > 1 and lowering.is_monotonic_increasing, "the strongest come first"
    assert (genes["share_expressed"] == 1).all() and genes["share_elsewhere"].isna().all()
    alone = explain(adata[[3]].copy(), cells=["cell3"], model=model)
    best = genes["ensembl_id"].iloc[0]
    assert alone["ensembl_id"].iloc[0] == best


def test_against_is_the_difference_of_two_labels(adata, model):
    wide = ExplainOptions(n_genes=400)
    tables = {
        label: explain(
            adata,
            cells=["cell3"],
            label=label,
            against=other,
            labels=OWN,
            model=model,
            options=wide,
        )
        for label, other in ((OWN[0], OWN[2]), (OWN[2], OWN[0]))
    }
    effects = {
        (label, kind): rows.set_index("gene")["effect"]
        for label, table in tables.items()
        for kind, rows in table.groupby("evidence")
    }
    difference = effects[OWN[0], "label"] - effects[OWN[2], "label"]
    lead = effects[OWN[0], "against"]
    pd.testing.assert_series_equal(
        lead.sort_index(), difference.sort_index(), check_exact=False, atol=1e-4
    )
    back = effects[OWN[2], "against"]
    pd.testing.assert_series_equal(
        lead.sort_index(), -back.sort_index(), check_exact=False, atol=1e-4
    )


def test_a_cluster_is_the_mean_of_its_cells(adata, model):
    adata.obs["leiden"] = ["0"] * 2 + ["1"] * 27 + [None]
    options = ExplainOptions(n_genes=400)
    ask = {"label": "B cell", "against": "monocyte", "model": model, "options": options}
    table = explain(adata, cluster_key="leiden", **ask)
    assert table.groupby("target")["n_cells"].first().to_dict() == {"0": 2, "1": 27}
    apart = explain(adata, cells=["cell0", "cell1"], **ask)
    for kind in ("label", "against"):
        mean = apart[apart["evidence"] == kind].groupby("gene")["effect"].sum() / 2
        rows = table[(table["evidence"] == kind) & (table["target"] == "0")]
        pd.testing.assert_series_equal(
            rows.set_index("gene")["effect"].sort_index(), mean, check_exact=False, atol=1e-5
        )
    some = rows.iloc[0]
    counts = adata[:, some["gene"]].X.toarray().ravel() > 0
    assert some["share_expressed"] == counts[:2].mean()
    assert some["share_elsewhere"] == pytest.approx(counts[2:29].mean())


def test_markers_are_held_against_the_other_clusters(model, make_cells):
    adata = make_cells(30)
    adata.obs["leiden"] = ["0"] * 10 + ["1"] * 20
    # Names of measured genes stand in: CD8A for a gene that cluster 0 alone expresses.
    names = adata.var_names.tolist()
    counts = adata.X.toarray()
    counts[:10, 0], counts[10:, 0] = 3, 0
    adata = anndata.AnnData(counts, obs=adata.obs, var=pd.DataFrame(index=["CD8A", *names[1:]]))
    table = explain(adata, cluster_key="leiden", label=OWN[1], against="B cell", model=model)
    markers = table[table["evidence"] == "marker"].set_index("target")
    assert markers["marker"].tolist() == ["CD8", "CD8"]
    assert markers.loc["0", ["share_expressed", "share_elsewhere"]].tolist() == [1, 0]
    assert markers["agrees"].tolist() == ["yes", "no"]


def test_what_was_not_measured_is_unknown(adata, model):
    assert "CD8A" not in adata.var_names and "CD8B" not in adata.var_names
    table = explain(adata, cells=["cell3"], label=OWN[1], against="B cell", model=model)
    (marker,) = table[table["evidence"] == "marker"].itertuples()
    assert marker.agrees == "unknown" and np.isnan(marker.share_expressed)
    assert np.isnan(marker.effect) and marker.gene == "CD8A, CD8B"


def test_the_runner_up_says_something_else(adata, model):
    ontology = Ontology.bundled()
    adata.obs["own"] = adata.obs_names
    table = explain(adata, cluster_key="own", model=model, options=ExplainOptions(n_genes=1))
    pairs = set(zip(table["ontology_term_id"], table["against_ontology_term_id"], strict=True))
    assert len(pairs) > 3
    assert not any(ontology.is_comparable(*pair) for pair in pairs)


def test_a_label_for_each_target(adata, model):
    adata.obs["leiden"] = ["0", "1"] * 15
    table = explain(adata, cluster_key="leiden", label={"1": "B cell"}, labels=OWN[1:], model=model)
    labels = table.groupby("target")["label"].first()
    assert labels["1"] == "B cell" and labels["0"] in OWN[1:]


def test_words_that_name_no_type_are_read_as_free_text_with_a_warning(adata, model):
    with pytest.warns(UserWarning, match="'T cel' does not match exactly one Cell Ontology term"):
        table = explain(adata, cells=[adata.obs_names[0]], label="T cel", model=model)
    assert set(table["label"]) == {"T cel"}
    explain(adata, cells=[adata.obs_names[0]], label="text: T cel", model=model)


def test_the_table_goes_into_uns_and_into_a_file(adata, model, tmp_path):
    table = explain(adata, cells=["cell3"], model=model, key_added="why")
    assert adata.uns["why"] is table
    adata.write_h5ad(tmp_path / "why.h5ad")
    again = anndata.read_h5ad(tmp_path / "why.h5ad").uns["why"]
    assert again["gene"].tolist() == table["gene"].tolist()


def test_a_file_gives_what_its_cells_in_memory_give(adata, model, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    table = explain(tmp_path / "cells.h5ad", cluster_key="cell_type", model=model)
    pd.testing.assert_frame_equal(table, explain(adata, cluster_key="cell_type", model=model))


def test_cells_of_a_cluster_are_spread_over_the_file():
    (target,) = cluster_targets(np.array(["a"] * 1000, dtype=object), max_cells=5)
    assert target.rows.tolist() == [0, 250, 500, 749, 999]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({}, "either cells .* or cluster_key .*, got neither"),
        ({"cells": ["cell3"], "cluster_key": "cell_type"}, "either cells .*, got both"),
        ({"cells": ["cell99"]}, "no cell has the name 'cell99'; names are unique, such as cell0"),
        ({"cluster_key": "leiden"}, "no column 'leiden' in obs; it has cell_type"),
        ({"cells": ["cell3"], "label": "CL:9999999"}, "CL:9999999"),
        ({"cells": ["cell3"], "label": "B cell", "against": "B cells"}, "with itself"),
        ({"cells": ["cell3"], "label": "cell"}, "too general"),
    ],
)
def test_what_cannot_be_explained_is_refused(adata, model, asked, line):
    with pytest.raises(ValueError, match=line):
        explain(adata, model=model, **asked)


def test_key_added_needs_an_anndata(tmp_path):
    with pytest.raises(ValueError, match="needs an AnnData"):
        explain(tmp_path / "x.h5ad", cells=["a"], key_added="why")


def test_evidence_of_kang_is_what_a_biologist_knows(shared):
    path = shared / "corpus" / "validation" / "cells" / "kang2018_pbmc_ifnb.h5ad"
    table = explain(
        path,
        cluster_key="cell_type_ontology_label",
        label={"natural killer cell": "natural killer cell", "B cell": "B cell"},
        options=ExplainOptions(cells_per_cluster=10, n_genes=10),
    )
    genes = table[(table["evidence"] == "label") & (table["effect"] > 0)].groupby("target")["gene"]
    assert {"GNLY", "GZMB", "NKG7"} <= set(genes.get_group("natural killer cell"))
    assert {"CD79A", "MS4A1"} <= set(genes.get_group("B cell"))


def test_a_transformer_has_the_same_table(adata, tiny_model):
    model = LangCell.from_pretrained(str(tiny_model))
    table = explain(adata, cells=["cell3"], model=model)
    (effects,) = gene_effects(model, [np.array([5, 9, 3])], [np.eye(16, dtype=np.float32)[:2]])
    assert effects.shape == (3, 2)
    assert (table["evidence"] == "label").sum() == 20
