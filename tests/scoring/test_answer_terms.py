"""Answers that hedge: they stand for all the types that they name."""

import pytest

from benchmarks.data.marker_lists import read_marker_lists
from benchmarks.data.named_answers import NO_TERM, Answer, BroadTypes
from benchmarks.scoring.answer_terms import AnswerTerms
from benchmarks.scoring.marker_agreement import agreement
from ontology.graph import Ontology

B, T, NK, CD4 = "CL:0000236", "CL:0000084", "CL:0000623", "CL:0000624"


@pytest.fixture(scope="module")
def terms():
    ontology = Ontology.bundled()
    named = [(B, frozenset({"b cell"})), (T, frozenset({"t/nk cell"}))]
    return AnswerTerms(ontology, BroadTypes(named, ontology))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CD4-positive, alpha-beta T cell", {CD4}),
        ("NK cells / T cells", {NK, T}),
        ("NK cells and T cells (lymphoid)", {NK, T}),
        ("B cells or gremlins", {B, NO_TERM}),
        ("B cell, specifically gremlin", {B}),
        ("gremlins or goblins", set()),
    ],
)
def test_names_are_looked_up_whole_and_then_in_parts(terms, text, wanted):
    assert terms.answer(text).terms == wanted


def test_a_hedge_agrees_in_part(terms):
    truth = Answer(label="B cell", terms=frozenset({B}), broad=frozenset({"b cell"}))
    assert agreement(truth, terms.answer("B cells")) == 1
    assert terms.answer("B cells or T cells").broad == {"b cell", "t/nk cell"}
    assert agreement(truth, terms.answer("B cells or T cells")) == 0.5


def test_recorded_answers_are_read_hardly_better_than_they_were(shared):
    ontology = Ontology.bundled()
    lists = read_marker_lists(shared / "corpus" / "markers" / "gptcelltype.csv", ontology)
    read = AnswerTerms(ontology, lists.broad_types)
    higher = 0
    for truth, answer in zip(lists.truth, lists.recorded["gpt3.5aug3"], strict=True):
        assert answer is not None
        higher += agreement(truth, read.answer(answer.label)) > agreement(truth, answer)
    assert higher <= 0.01 * len(lists)
