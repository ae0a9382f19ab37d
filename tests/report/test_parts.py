"""What a report is made of: groups, ratings, the tree, columns found."""

import doctest
from dataclasses import replace
from importlib import import_module

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from zeroshot.labels.agreement import resolve_truth
from zeroshot.labels.comparison import label_spellings
from zeroshot.report.agreement import (
    Contradiction,
    compare_labels,
    contradictions,
    find_labels,
)
from zeroshot.report.groups import Group, RunnerUp, summarise_groups, with_runners_up
from zeroshot.report.run_facts import command, facts, names_study, tissues
from zeroshot.report.type_tree import CallTree, call_trees
from zeroshot.report.umap_section import number_positions
from zeroshot.report.verdicts import make_verdict, rate, rate_all
from zeroshot.report.warnings import notes
from zeroshot.results.annotated_file import open_annotated, read_rows
from zeroshot.results.called_cells import (
    CalledCells,
    find_cluster_key,
    group_by_call,
    group_by_column,
)

B, T, CD4, NK, LYMPHOCYTE = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000623", "CL:0000542"
MODULES = (
    *(
        "zeroshot.plots.panels",
        "zeroshot.confidence.lower_levels",
        "zeroshot.report.report",
        "zeroshot.report.run_facts",
    ),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_documentation(name):
    outcome = doctest.testmod(import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


def _cells(ontology, called, leaf=None, *, confidence=0.95, candidates=(B, T, CD4, NK)):
    names = [ontology.terms[each].name if each else "unknown" for each in called]
    leaf_names = [ontology.terms[each].name for each in (leaf or called)]
    return CalledCells(
        labels=np.array(names, dtype=object),
        term_ids=np.array(called, dtype=object),
        leaf_labels=np.array(leaf_names, dtype=object),
        confidence=np.full(len(called), confidence),
        leaf_confidence=np.full(len(called), 0.4),
        margin=np.full(len(called), 0.1),
        ood=None,
        has_confidence=True,
        threshold=0.9,
        details={
            "candidate_ids": np.array(candidates, dtype=object),
            "candidate_names": np.array([ontology.terms[x].name for x in candidates], dtype=object),
        },
    )


def _group(**changes):
    group = Group(
        name="0",
        call="B cell",
        term_id=B,
        n_cells=100,
        share_same=1.0,
        share_lineage=1.0,
        others=(),
        quartiles=(0.92, 0.95, 0.99),
        share_backed_off=0.0,
        share_unusual=0.0,
        leaf_confidence=0.4,
        n_descendants=7,
        spans=(),
        share_descendants=0.1,
        leaf_types=(("B cell", 100),),
    )
    return replace(group, **changes)


def test_status_follows_from_the_two_labels(ontology):
    cells = _cells(ontology, [B, LYMPHOCYTE, ""], [B, T, NK])
    assert cells.status.tolist() == [0, 1, 2]


def test_a_report_says_whose_calibration_it_is(ontology):
    cells = _cells(ontology, [B, T])

    def said(**details):
        shown = replace(cells, details={**cells.details, **details})
        found = notes(shown, [], [], np.array([False, False]), None)
        return [each.text for each in found if "calibrated" in each.title]

    of_model = {"id": "1", "learnt_for": "model"}
    assert (
        said(calibration=of_model)
        == []
        == said(head={"id": "2"}, calibration={"id": "1", "learnt_for": "head"})
    )
    (text,) = said(head={"id": "2"}, calibration=of_model)
    assert "the calibration is that of the model without the head" in text
    (text,) = said(head={"id": "2"})
    assert text.startswith("The head came without") and "annotate calibrate" not in text
    (text,) = said()
    assert text.startswith("The model came without") and "annotate calibrate" in text


def test_groups_are_summarised_by_hand_counted_shares(ontology):
    cells = _cells(ontology, [T, T, CD4, NK, B, ""], [T, CD4, CD4, NK, B, B])
    grouping = group_by_column(np.array(["1", "1", "1", "1", "10", "2"]), "leiden")
    assert grouping.names == ("1", "2", "10")
    unusual = np.array([True, False, False, False, False, False])
    first, second, third = summarise_groups(cells, grouping, unusual, ontology)
    assert (first.call, first.n_cells, first.share_same) == ("T cell", 4, 0.5)
    assert first.share_lineage == 0.75  # CD4-positive ones are T cells, NK cells are none
    assert first.share_backed_off == 0.25 and first.share_unusual == 0.25
    assert (second.call, third.call) == ("unknown", "B cell")


def test_a_call_spans_the_broadest_types_called_below_it(ontology):
    called = [LYMPHOCYTE] + [T] * 20 + [CD4] * 10 + [B] * 12 + [NK] * 9
    cells = _cells(ontology, called)
    grouping = group_by_call(cells.labels)
    groups = summarise_groups(cells, grouping, np.zeros(len(called), bool), ontology)
    spans = {group.call: group.spans for group in groups}
    # CD4-positive ones are T cells, and nine cells are too few.
    assert spans["lymphocyte"] == ("T cell", "B cell")
    shares = {group.call: group.share_descendants for group in groups}
    assert shares["T cell"] == pytest.approx(10 / 52) and shares["B cell"] == 0
    assert spans["T cell"] == (ontology.terms[CD4].name,) and spans["B cell"] == ()


def test_cells_without_a_call_come_last():
    grouping = group_by_call(np.array(["unknown", "unknown", "B cell"], dtype=object))
    assert grouping.names == ("B cell", "unknown")
    assert grouping.members.tolist() == [1, 1, 0]


def test_the_runner_up_is_of_another_lineage_and_kinds_count_for_their_type(ontology):
    cells = _cells(ontology, [T, T])
    group = summarise_groups(cells, group_by_call(cells.labels), np.zeros(2, bool), ontology)
    found = with_runners_up(group, np.array([[0.05, 0.3, 0.4, 0.2]]), cells, ontology)[0]
    # CD4 is a kind of the call and no rival: 0.3 + 0.4 for T cells against 0.2 for NK cells.
    assert found.runner_up is not None and found.runner_up.term_id == NK
    assert found.runner_up.lead == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "rating", "reason"),
    [
        ({}, "trust", None),
        (
            {"share_backed_off": 0.9, "leaf_types": (("naive B cell", 60),)},
            "broad",
            "one of 7 subtypes; best candidates (confidence 0.40): naive B cell",
        ),
        (
            {"share_backed_off": 0.9, "spans": ("T cell", "NK cell")},
            *("vague", "does not tell T cell from NK cell; best candidates (confidence 0.40)"),
        ),
        (
            {"share_backed_off": 0.9, "share_descendants": 0.6},
            *("vague", "60% of all cells are called subtypes of it"),
        ),
        ({"call": "unknown"}, "none", "no type has enough confidence"),
        ({"n_cells": 3}, "check", "only 3 cells"),
        ({"share_lineage": 0.5}, "check", "split: 50% of its cells"),
        ({"share_unusual": 0.8}, "check", "80% of its cells are unlike"),
        ({"quartiles": (0.3, 0.6, 0.9)}, "check", "low median confidence (0.60)"),
        (
            {"runner_up": RunnerUp(name="T cell", term_id=T, lead=0.01)},
            "check",
            "T cell is almost as probable",
        ),
        (
            {"contradiction": Contradiction(share=0.8, label="T cell")},
            *("check", "the labels of 80% of its labelled cells contradict it, mostly T cell"),
        ),
        ({"contradiction": Contradiction(share=0.3, label="T cell")}, "trust", None),
    ],
)
def test_each_doubt_has_its_reason(changes, rating, reason):
    trust = rate(
        _group(**changes), n_called=_group(**changes).n_cells, has_confidence=True, threshold=0.9
    )
    assert trust.rating == rating
    assert trust.reasons == () if reason is None else reason in trust.reasons[0]


def test_without_confidence_nothing_is_called_trustworthy():
    assert rate(_group(), n_called=50, has_confidence=False, threshold=0.9).rating == "unrated"
    assert (
        rate(_group(n_cells=2), n_called=2, has_confidence=False, threshold=0.9).rating == "check"
    )


def test_the_verdict_merges_clusters_of_one_call(ontology):
    cells = _cells(ontology, [B, B, ""], [B, B, T])
    groups = [
        _group(name="0", n_cells=20),
        _group(name="4"),
        _group(name="9", call="T cell", n_cells=3),
    ]
    ratings = rate_all(groups, has_confidence=True, threshold=0.9)
    verdict = make_verdict(cells, groups, ratings)
    assert [(each.call, each.n_cells, each.clusters) for each in verdict.usable] == [
        ("B cell", 120, ("0", "4"))
    ]
    assert [each.reasons for each in verdict.doubtful] == [("only 3 cells: may be chance",)]
    assert verdict.shares == pytest.approx((2 / 3, 0, 1 / 3)) and verdict.n_unknown == 1


def _nodes(trees):
    for tree in trees:
        yield tree
        yield from _nodes(tree.children)


TYPES = all_cell_types(Ontology.bundled())


@given(st.dictionaries(st.sampled_from(TYPES), st.integers(1, 50), max_size=12))
@settings(max_examples=40, deadline=None)
def test_the_tree_has_each_called_type_once_below_an_ancestor_and_adds_up(n_cells):
    ontology = Ontology.bundled()
    trees = call_trees(n_cells, ontology)
    nodes = list(_nodes(trees))
    assert {node.term_id: node.n_own for node in nodes if node.n_own} == n_cells
    assert len({node.term_id for node in nodes}) == len(nodes)
    assert sum(tree.n_cells for tree in trees) == sum(n_cells.values())
    for node in nodes:
        assert node.n_cells == node.n_own + sum(child.n_cells for child in node.children)
        assert node.n_own or len(node.children) > 1
        assert all(node.term_id in ontology.ancestors(child.term_id) for child in node.children)


def test_the_tree_stands_by_lineage(ontology):
    trees = call_trees({B: 3, CD4: 5, T: 2, "": 7}, ontology)
    assert [tree.name for tree in trees] == ["lymphocyte"]
    assert trees[0].n_own == 0 and trees[0].n_cells == 10
    assert trees[0].children == (
        CallTree(
            term_id=T,
            name="T cell",
            n_own=2,
            n_cells=7,
            children=(
                CallTree(
                    term_id=CD4, name=ontology.terms[CD4].name, n_own=5, n_cells=5, children=()
                ),
            ),
        ),
        CallTree(term_id=B, name="B cell", n_own=3, n_cells=3, children=()),
    )


@pytest.fixture
def opened(tmp_path):
    obs = pd.DataFrame(
        {
            "leiden": pd.Categorical(["1", "2"] * 4),
            "cell_type": ["B cell", "T cell"] * 4,
            "author_ontology_term_id": [B, ""] * 4,
            "barcode": [f"x{i}" for i in range(8)],
            "langcell_leaf_ontology_term_id": [B] * 8,
        },
        index=[f"c{i}" for i in range(8)],
    )
    adata = anndata.AnnData(X=np.ones((8, 2), np.float32), obs=obs)
    adata.obsm["X_umap"] = np.arange(16.0).reshape(8, 2)
    adata.obsm["scores"] = sparse.csr_matrix(np.eye(8, 3))
    adata.write_h5ad(tmp_path / "x.h5ad")
    return adata, tmp_path / "x.h5ad"


def test_a_file_and_an_anndata_read_alike(opened):
    for source in opened:
        with open_annotated(source) as cells:
            assert cells.n_cells == 8 and cells.notes("nothing") == {}
            rows = read_rows(cells, "X_umap", np.array([1, 6]))
            assert rows.tolist() == [[2, 3], [12, 13]]
            (start, block), *others = cells.blocks("scores")
            assert start == 0 and not others and block.toarray().tolist() == np.eye(8, 3).tolist()


def test_names_of_cells_with_a_mask_are_counted_one_by_one(opened):
    path = opened[1]
    with h5py.File(path, "a") as file:  # as anndata writes the strings of pandas 3
        obs = file["obs"]
        names = np.asarray(read_elem(obs[obs.attrs["_index"]])).astype(object)
        del obs[obs.attrs["_index"]]
        group = obs.create_group(obs.attrs["_index"])
        group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
        write_elem(group, "values", names)
        write_elem(group, "mask", np.zeros(8, dtype=bool))
    with open_annotated(path) as cells:
        assert cells.n_cells == 8
        assert read_rows(cells, "X_umap", np.array([1, 6])).tolist() == [[2, 3], [12, 13]]


def test_columns_are_found_by_name_and_content(opened, ontology):
    with open_annotated(opened[1]) as cells:
        assert find_cluster_key(cells, None, "langcell") == "leiden"
        key, truth = find_labels(cells, None, "langcell", ontology)
        # Ids come first where half of the cells have one.
        assert key == "author_ontology_term_id" and truth.n_scored == 4
        assert find_labels(cells, "cell_type", "langcell", ontology)[1].n_scored == 8
        with pytest.raises(ValueError, match="no column 'nope' in obs; it has leiden, cell_type"):
            find_labels(cells, "nope", "langcell", ontology)
        with pytest.raises(ValueError, match="no label in obs\\['barcode'\\] names a cell type"):
            find_labels(cells, "barcode", "langcell", ontology)
        with pytest.raises(ValueError, match="no column 'nope' in obs to group cells by"):
            find_cluster_key(cells, "nope", "langcell")


def test_what_is_no_h5ad_is_one_line(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="not an HDF5 file"), open_annotated(tmp_path / "x.csv"):
        pass
    with (
        pytest.raises(FileNotFoundError, match="no such file"),
        open_annotated(tmp_path / "y.h5ad"),
    ):
        pass


def test_each_cell_has_one_of_five_fates(ontology):
    cells = _cells(ontology, [B, LYMPHOCYTE, CD4, NK, "", B], [B, B, CD4, NK, B, B])
    truth = resolve_truth(
        np.array(["B cell", "B cell", "T cell", "B cell", "B cell", "odd"]), ontology
    )
    agreement = compare_labels("x", truth, cells, ontology, was_found=False)
    assert [kind for _, kind, _ in agreement.shares] == [
        *("same", "broader", "finer", "different", "unknown")
    ]
    assert [share for _, _, share in agreement.shares] == [pytest.approx(0.2)] * 5
    assert agreement.n_cells == 5 and agreement.unresolved == {"odd": 1}
    row = dict(zip(agreement.heat_map.calls, agreement.heat_map.cells[0], strict=True))
    assert agreement.heat_map.labels[0] == ("B cell", 4)
    assert row["lymphocyte"].is_related and not row["natural killer cell"].is_related
    assert row["unknown"].n_cells == 1 and row["unknown"].share == 0.25


def test_small_clusters_of_a_common_call_are_no_chance():
    groups = [_group(name=str(number), n_cells=4) for number in range(5)]
    ratings = rate_all(groups, has_confidence=True, threshold=0.9)
    assert not any("may be chance" in reason for each in ratings for reason in each.reasons)
    (alone,) = rate_all(groups[:1], has_confidence=True, threshold=0.9)
    assert alone.reasons[0] == "only 4 cells: may be chance"


def test_labels_speak_against_a_group_where_enough_of_its_cells_have_one(ontology):
    cells = _cells(ontology, [B, B, B, T, T, T, T, ""], [B] * 8)
    truth = resolve_truth(
        np.array(["T cell", "T cell", "lymphocyte", "T cell", *["odd"] * 3, "B cell"]), ontology
    )
    grouping = group_by_call(cells.labels)
    found = dict(zip(grouping.names, contradictions(truth, cells, grouping, ontology), strict=True))
    assert found["B cell"] == Contradiction(share=pytest.approx(2 / 3), label="T cell")
    assert found["T cell"] is None, "one of four has a label"
    assert found["unknown"] == Contradiction(share=0, label=""), "no call, nothing to contradict"


def test_calls_that_agree_are_counted_among_those_made(ontology):
    cells = _cells(ontology, [B, LYMPHOCYTE, NK, ""], [B] * 4)
    truth = resolve_truth(np.array(["B cell"] * 4), ontology)
    agreement = compare_labels("x", truth, cells, ontology, was_found=False)
    assert agreement.share_agreeing == pytest.approx(2 / 3)


def test_a_tissue_is_told_with_all_that_it_demotes(ontology):
    details = {
        "candidate_names": ["B cell", "T cell", "natural killer cell"],
        "tissue": {
            "mode": "weigh",
            "tissues": {"UBERON:1": {"name": "lung", "demoted": np.array([B, T], object)}},
            "unknown": {"values": np.array(["here"], object), "n_cells": np.array([7])},
        },
    }
    (said, names), (unknown, values) = tissues(details, ontology)
    assert said == "lung (UBERON:1): 2 of 3 labels demoted" and names == ["B cell", "T cell"]
    assert unknown.startswith("7 cells with an unknown tissue") and values == ["here"]
    assert tissues({}, ontology) == []


def test_calls_in_words_are_compared_with_no_label(ontology):
    cells = _cells(ontology, [B, "", ""], [B, B, B])
    cells = replace(cells, labels=np.array(["B cell", "my tumour", "unknown"], dtype=object))
    truth = resolve_truth(np.array(["B cell"] * 3), ontology)
    agreement = compare_labels("x", truth, cells, ontology, was_found=False)
    assert agreement.n_cells == 2 and agreement.share_different == 0
    grouping = group_by_call(cells.labels)
    assert all(each.share == 0 for each in contradictions(truth, cells, grouping, ontology))
    words = replace(cells, labels=np.array(["my tumour"] * 3, dtype=object))
    words = replace(words, term_ids=np.array([""] * 3, dtype=object))
    assert compare_labels("x", truth, words, ontology, was_found=False) is None


def test_words_of_a_head_are_judged_by_a_column_that_uses_them(ontology):
    cells = _cells(ontology, [B, "", "", B, "", LYMPHOCYTE], [B] * 6)
    labels = ["B cell", "CD4T", "CD4T", "B cell", "unknown", "lymphocyte"]
    cells = replace(cells, labels=np.array(labels, dtype=object))
    spellings = label_spellings([B, "text: CD4T"], ontology)
    values = np.array(["B cell", "CD4T", "B cell", "CD4T", "B cell", "CD4T"], dtype=object)
    truth = resolve_truth(values, ontology, spellings)
    agreement = compare_labels("mine", truth, cells, ontology, was_found=False)
    # Whether a CD4T is a lymphocyte is not known.
    assert (agreement.n_cells, agreement.n_left_out) == (5, 1)
    assert [share for *_, share in agreement.shares] == [0.4, 0, 0, 0.4, 0.2]
    assert agreement.heat_map.labels == (("B cell", 3), ("CD4T", 2))
    related = {
        (label, call): each.is_related
        for (label, _), row in zip(agreement.heat_map.labels, agreement.heat_map.cells, strict=True)
        for call, each in zip(agreement.heat_map.calls, row, strict=True)
    }
    assert related[("CD4T", "CD4T")] and related[("B cell", "B cell")]
    assert not related[("CD4T", "B cell")] and not related[("B cell", "unknown")]
    found = contradictions(truth, cells, group_by_call(cells.labels), ontology)
    shares = dict(zip(group_by_call(cells.labels).names, found, strict=True))
    assert shares["CD4T"] == Contradiction(share=0.5, label="B cell")
    assert shares["B cell"] == Contradiction(share=0.5, label="CD4T")
    assert shares["lymphocyte"].share == 0
    terms = resolve_truth(np.array([B] * 6, dtype=object), ontology, spellings)
    agreement = compare_labels("terms", terms, cells, ontology, was_found=False)
    assert (agreement.n_cells, agreement.n_left_out) == (4, 2)
    assert agreement.share_different == 0


def test_a_state_is_not_judged_by_cell_types(ontology):
    """Not even where it was left unknown."""
    cells = _cells(ontology, ["", ""], [B, B], candidates=(B, T))
    details = {"candidate_ids": ["text: a", "text: b"], "candidate_names": ["a", "b"]}
    cells = replace(cells, details=details, leaf_labels=np.array(["a", "b"], dtype=object))
    truth = resolve_truth(np.array(["B cell"] * 2), ontology)
    assert compare_labels("x", truth, cells, ontology, was_found=False) is None


@pytest.mark.parametrize(
    ("fitted_on", "names", "is_it"),
    [
        ("Baron 2016, Kang 2018", ["kang2018_pbmc.h5ad"], True),
        ("Kang 2018", ["mine.h5ad", "Kang et al. 2018"], True),
        ("Kang 2018", ["kang.h5ad", "2018"], False),
        ("a, b", ["pbmc.h5ad"], False),
        ("a, b", ["b.h5ad"], True),
        ("cells held out from the head", ["cells.h5ad"], False),
        ("", ["kang2018.h5ad"], False),
    ],
)
def test_a_study_is_known_by_its_words(fitted_on, names, is_it):
    assert names_study(fitted_on, names) is is_it


def test_a_head_is_named_and_asked_for_again():
    details = {"head": {"id": "ab12", "kind": "linear", "n_cells": 75}, "candidates": "given"}
    rows = dict(facts(details, n_cells=3, label="x.h5ad"))
    assert rows["head"] == "linear, fitted to 75 labelled cells (id ab12)"
    words = command(details, label="x.h5ad")
    assert "--head FOLDER_OF_ab12" in words and "--labels" not in words


def test_numbers_on_a_map_keep_apart():
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(0, 1, (200, 2)), rng.normal(0, 1, (200, 2)), [[9, 9]]])
    values = np.array(["T cell"] * 200 + ["B cell"] * 200 + ["mast cell"])
    spots = number_positions(places, values, ("T cell", "B cell", "mast cell", "absent"))
    assert list(spots) == ["T cell", "B cell", "mast cell"]
    extent = np.ptp(places, axis=0)
    gaps = [
        np.linalg.norm((spots[one] - spots[other]) / extent)
        for one, other in (("T cell", "B cell"), ("T cell", "mast cell"), ("B cell", "mast cell"))
    ]
    assert min(gaps) >= 0.05
    # The first is undisturbed: the cell nearest to the middle of its type.
    middle = np.median(places[:200], axis=0)
    nearest = places[np.argmin((((places[:200] - middle) / extent) ** 2).sum(axis=1))]
    np.testing.assert_array_equal(spots["T cell"], nearest)


def test_a_type_without_room_gets_its_number_all_the_same():
    places = np.array([[0.0, 0.0], [0.001, 0.0], [1.0, 1.0]])
    spots = number_positions(places, np.array(["a", "b", "c"]), ("a", "b", "c"))
    assert spots["b"].tolist() == [0.001, 0.0]
