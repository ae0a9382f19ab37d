"""Tables of marker lists: reading, agreement, text metrics, neighbours, and who has seen them."""

import numpy as np
import pytest

from benchmarks.arena.gene_lists import MarkerListTask
from benchmarks.arena.leaks import ListLeaks, TrainedOn
from benchmarks.arena.methods import RecordedAnswers, list_methods
from benchmarks.arena.results import Method
from benchmarks.baselines.gene_list_neighbors import (
    GeneListNeighbors,
    MarkerListOverlap,
    RandomName,
)
from benchmarks.data.marker_lists import human_symbols, read_marker_lists
from benchmarks.data.named_answers import Answer, BroadTypes
from benchmarks.scoring.marker_agreement import agreement
from benchmarks.scoring.text_metrics import bleu, meteor, text_figures
from ontology.graph import Ontology

HEAD = (
    "dataset,tissue,marker,manual_annotation,manual_CLID,manual_broadtype,"
    "gpt_annotation,gpt_CLID,gpt_broadtype,gpt_agreement\n"
)
B, T, LIVER = (
    "B cell,CL:0000236,b cell",
    "T cell,CL:0000084,t/nk cell",
    "hepatocyte,CL:0000182,hepatocyte",
)


def row(dataset, markers, truth, answer="NA,NA,NA,NA"):
    return f'{dataset},NA,"{markers}",{truth},{answer}\n'


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six lists of two sources; the system was asked for the first two."""
    path = tmp_path_factory.mktemp("lists") / "lists.csv"
    rows = [
        row("one", "MS4A1, CD79A, CD79B", B, "Lymphocyte,CL:0000542,lymphocyte,0.5"),
        row("one", "CD3D, CD3E, TRAC", T, "T cells,CL:0000084,t/nk cell,1"),
        row("one", "ALB, APOA1, TTR", LIVER),
        row("two", "CD79A, MS4A1, BANK1", B),
        row("two", "CD3E, CD3G, CD3D", T),
        row("two", "APOA1, ALB, SERPINA1", LIVER),
    ]
    path.write_text(HEAD + "".join(rows))
    return path


@pytest.fixture(scope="module")
def lists(table, ontology):
    return read_marker_lists(table, ontology)


def test_reads_truth_and_recorded_answers(lists):
    assert lists.genes[0] == ("MS4A1", "CD79A", "CD79B")
    assert lists.truth[0].term_id == "CL:0000236"
    assert [each is not None for each in lists.recorded["gpt"]] == [True, True, *[False] * 4]
    assert list(lists.tissues) == [""] * 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "column 'dataset' is missing"),
        (HEAD, "it has no rows"),
        (HEAD + row("one", "", B), "row 1 has no gene"),
    ],
)
def test_bad_tables_are_named(tmp_path, ontology, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_marker_lists(path, ontology)
    with pytest.raises(FileNotFoundError, match="table of marker lists .* does not exist"):
        read_marker_lists(tmp_path / "none.csv", ontology)


@pytest.mark.parametrize(
    ("given", "score"),
    [
        (Answer(label="other", terms=frozenset({"CL:1"})), 1.0),
        (Answer(label="b Cells"), 1.0),
        (Answer(label="x", broad=frozenset({"b cell"})), 0.5),
        (Answer(label="x", broad=frozenset({"antigen presenting cell"})), 0.5),
        (Answer(label="x", broad=frozenset({"fibroblast"})), 0.0),
        (Answer(label=""), 0.0),
    ],
)
def test_agreement_is_full_partial_or_none(given, score):
    truth = Answer(label="B cell", terms=frozenset({"CL:1"}), broad=frozenset({"b cell"}))
    assert agreement(truth, given) == score


def test_malignant_cells_agree_fully():
    truth, given = (Answer(label=x, broad=frozenset({"malignant cell"})) for x in ("a", "b"))
    assert agreement(truth, given) == 1.0


def test_a_term_without_broad_type_has_that_of_its_nearest_ancestor(ontology):
    broad = BroadTypes([("CL:0000236", frozenset({"b cell"}))], ontology)
    assert broad.of("CL:0000788") == {"b cell"}  # naive B cell
    assert broad.of("CL:0000182") == frozenset()


def test_symbols_of_mice_become_human():
    assert human_symbols([("Cd79a", "CD3D", "Nonsense1")]) == [("CD79A", "CD3D", "Nonsense1")]


@pytest.mark.parametrize("annotator", [GeneListNeighbors(), MarkerListOverlap()])
def test_neighbours_are_of_other_sources(lists, annotator):
    found = annotator.answers(lists)
    assert [each.term_id for each in found] == ["CL:0000236", "CL:0000084", "CL:0000182"] * 2


def test_neighbours_need_two_sources(tmp_path, ontology):
    path = tmp_path / "one.csv"
    path.write_text(HEAD + row("one", "MS4A1", B) + row("one", "ALB", LIVER))
    with pytest.raises(ValueError, match="all lists are of the dataset 'one'"):
        GeneListNeighbors().answers(read_marker_lists(path, ontology))


def test_random_names_depend_on_the_seed_alone(lists):
    first, again = (RandomName(seed=3).answers(lists) for _ in range(2))
    assert first == again
    assert {each.label for each in first} <= {"B cell", "T cell", "hepatocyte"}


class Scorer:
    """Likes one term, whatever the list."""

    def __init__(self, liked):
        self.liked = liked

    def list_scores(self, genes, candidates):
        return np.tile([each == self.liked for each in candidates], (len(genes), 1)).astype(float)


def method(annotator, known=None):
    return Method(name="x", kind="model", annotator=annotator, identity="", trained_on=known)


def test_task_scores_recorded_answers_where_asked(lists, ontology):
    task = MarkerListTask(lists, ontology, ListLeaks())
    (unit,), notes = task.units(method(RecordedAnswers("gpt", ontology)))
    assert (unit.name, unit.n, unit.figures["agreement"]) == ("one", 2, 0.75)
    assert (unit.figures["full"], unit.figures["partial"]) == (0.5, 0.5)
    assert notes == ["asked for 2 of 6 lists"]


def test_recorded_words_become_terms(tmp_path, ontology):
    path = tmp_path / "words.csv"
    path.write_text(
        "dataset,tissue,marker,manual_annotation,manual_CLID,manual_broadtype,mine_annotation\n"
        f"one,NA,MS4A1,{B},B-cells\n"
    )
    lists = read_marker_lists(path, ontology)
    (answer,) = RecordedAnswers("mine", ontology).answers(lists)
    assert answer.term_id == "CL:0000236"
    assert agreement(lists.truth[0], answer) == 1.0


def test_task_asks_scorers_among_all_terms_and_own(lists, ontology):
    task = MarkerListTask(lists, ontology, ListLeaks())
    one, two = task.units(method(Scorer("CL:0000236")))[0]
    for unit in (one, two):
        assert unit.figures["full"] == pytest.approx(1 / 3, abs=1e-5)
        assert unit.figures[task.own] == unit.figures["agreement"]
        assert unit.figures["descendant"] == pytest.approx(1 / 3, abs=1e-5)
        assert unit.figures["distance"] > 1
        assert unit.figures["exact_match"] == pytest.approx(1 / 3, abs=1e-5)


def test_lists_of_a_training_atlas_leak(tmp_path, ontology):
    path = tmp_path / "lists.csv"
    path.write_text(HEAD + row("tabulasapiens", "MS4A1", B) + row("HCL", "ALB", LIVER))
    lists = read_marker_lists(path, ontology)
    known = TrainedOn(sources=("blood_panel Tabula Sapiens",))
    assert list(ListLeaks().of(known, lists)) == ["atlas in training", ""]
    assert list(ListLeaks().of(None, lists)) == ["", ""]
    task = MarkerListTask(lists, ontology, ListLeaks())
    units, _ = task.units(method(Scorer("CL:0000236"), known))
    assert [(unit.name, unit.leak) for unit in units] == [
        ("tabulasapiens, atlas in training", "atlas in training"),
        ("HCL", ""),
    ]


def test_recorded_agreement_of_the_paper_is_met(shared, ontology):
    """Every agreement that the table records follows from the rule; GPT-4 has 0.569."""
    import pandas as pd

    path = shared / "corpus" / "markers" / "gptcelltype.csv"
    lists, table = read_marker_lists(path, ontology), pd.read_csv(path)
    for system, answers in lists.recorded.items():
        pairs = zip(lists.truth, answers, strict=True)
        ours = [np.nan if given is None else agreement(truth, given) for truth, given in pairs]
        np.testing.assert_array_equal(ours, table[f"{system}_agreement"])
    assert table["gpt4aug3_agreement"].mean() == pytest.approx(0.569, abs=5e-4)
    assert {each.name for each in list_methods(lists, ontology)} >= {
        "gpt4aug3",
        "gene-list-knn",
    }


def test_text_metrics_by_hand():
    figures = text_figures(["T cell", "the blue thing"], [["B cell"], ["B cell", "the blue thing"]])
    assert figures.exact_match == 0.5
    assert figures.token_f1 == pytest.approx((0.5 + 1) / 2)
    assert figures.rouge1 == pytest.approx((0.5 + 1) / 2)
    # One aligned word of two in one run: mean 0.5, penalty 0.5 * (1 / 1) ** 3.
    assert meteor(("t", "cell"), ("b", "cell")) == pytest.approx(0.25)
    assert meteor(("x",), ("y",)) == 0.0
    # Stems meet after exact words: 2 of 2 in one run.
    assert meteor(("killer", "cells"), ("killer", "cell")) == pytest.approx(1 - 0.5 / 8)


def test_bleu_counts_runs_over_all_answers():
    # 3 of 4 single words and 1 of 2 pairs; as long as the references.
    answers, right = [("naive", "b"), ("t", "cell")], [[("naive", "b")], [("b", "cell")]]
    assert bleu(answers, right) == pytest.approx(np.sqrt(3 / 4 * 1 / 2))
    assert bleu([("b",)], [[("b", "cell")]]) == 0.0
    assert bleu([("naive", "b")], [[("naive", "b", "cell", "x")]]) == pytest.approx(np.exp(-1))
