"""Puzzles: how they are drawn, written, read and scored."""

import json

import numpy as np
import pandas as pd
import pytest

from langcell.model.langcell import LangCell
from zeroshot.decide.puzzle_files import embed_gene_lists, read_puzzles, write_puzzles
from zeroshot.decide.puzzles import (
    Puzzle,
    build_puzzles,
    puzzle_reward,
    read_response,
    response,
    score_answers,
)

LABELS = np.array(["B", "T", "NK", "", "B", "T"] * 20)
DONORS = np.array(["d1"] * 60 + ["d2"] * 58 + [""] * 2)
PUZZLE = Puzzle(cells=(0, 1, 2, 3), labels=("a", "b", "c", "d"))


def test_puzzles_are_of_one_donor_and_of_different_types():
    puzzles = build_puzzles(LABELS, DONORS, n_cells=3, n_puzzles=40, seed=1)
    assert len(puzzles) == 40
    for puzzle in puzzles:
        assert LABELS[list(puzzle.cells)].tolist() == list(puzzle.labels)
        assert set(DONORS[list(puzzle.cells)]) == {puzzle.context}
        assert puzzle.candidates == ("B", "NK", "T")
    assert {puzzle.context for puzzle in puzzles} == {"d1", "d2"}
    assert len({puzzle.labels for puzzle in puzzles}) == 6, "every order comes up"
    assert puzzles == build_puzzles(LABELS, DONORS, n_cells=3, n_puzzles=40, seed=1)
    assert puzzles != build_puzzles(LABELS, DONORS, n_cells=3, n_puzzles=40, seed=2)


def test_puzzles_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="puzzles of 4 cells need .* at most 3"):
        build_puzzles(LABELS, n_cells=4, n_puzzles=1)
    with pytest.raises(ValueError, match="at least 2 cells, got 1"):
        build_puzzles(LABELS, n_cells=1, n_puzzles=1)
    with pytest.raises(ValueError, match="got 2 cells and the labels a | a"):
        Puzzle(cells=(0, 1), labels=("a", "a"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>so</think>\n<answer>a | b</answer>", ("a", "b")),
        ("<think>so\nit\nis</think>\n<answer> a|b |</answer>", ("a", "b")),
        ("<think>so</think><answer>a | b</answer>", None),
        ("<think>so</think>\n<answer>a, b</answer>", None),
        ("Well: <think>so</think>\n<answer>a | b</answer>", None),
        ("<think>so</think>\n<answer>a | b</answer>\n", None),
        ("<think>a</think></think>\n<answer>a | b</answer>", None),
        ("a | b", None),
    ],
)
def test_the_form_of_a_response(text, wanted):
    assert read_response(text) == wanted


def test_a_response_reads_back():
    assert read_response(response(PUZZLE.labels, reasoning="as it is")) == PUZZLE.labels


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (("a", "b", "c", "d"), 1),
        (("A", "b", "C", "d"), 1),
        (("b", "a", "c", "d"), 0.25),
        (("b", "a", "d", "c"), 0),
        (("a", "a", "c", "d"), -1),
        (("a", "b", "c"), -1),
        (None, -1),
    ],
)
def test_the_reward_by_hand(answer, reward):
    assert puzzle_reward(answer, PUZZLE) == reward


def test_scores_by_hand():
    answers = [PUZZLE.labels, ("b", "a", "c", "d"), None, ("a", "a", "a", "a")]
    score = score_answers([PUZZLE] * 4, answers)
    assert (score.n_puzzles, score.n_cells) == (4, 16)
    assert score.cell_accuracy == (4 + 2 + 0 + 1) / 16
    assert score.batch_accuracy == 1 / 4
    assert score.format_validity == 3 / 4
    assert score.uniqueness == (1 + 1 + 0 + 0.25) / 4
    assert score.reward == (1 + 0.25 - 1 - 1) / 4
    with pytest.raises(ValueError, match=r"one entry per puzzle \(1\), got 0"):
        score_answers([PUZZLE], [])


GENES = (("MS4A1", "CD79A"), ("CD3D", "CD3E", "IL7R"), ("LYZ", "S100A8"))
TWO = (
    Puzzle(cells=(1, 0), labels=("T cell", "B cell"), context="blood of a donor."),
    Puzzle(cells=(2, 0), labels=("monocyte", "B cell")),
)


def test_written_puzzles_read_back(tmp_path):
    write_puzzles(tmp_path / "puzzles.json", TWO, GENES)
    found = read_puzzles(tmp_path / "puzzles.json")
    assert found.genes == (GENES[1], GENES[0], GENES[2], GENES[0])
    assert [puzzle.labels for puzzle in found.puzzles] == [puzzle.labels for puzzle in TWO]
    assert [puzzle.cells for puzzle in found.puzzles] == [(0, 1), (2, 3)]
    assert found.puzzles[0].context == "blood of a donor."
    records = json.loads((tmp_path / "puzzles.json").read_text())
    assert set(records[0]) == {"system_msg", "user_msg", "assistant_msg"}
    # The other forms that the data set comes in.
    lines = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "puzzles.jsonl").write_text(lines)
    pd.DataFrame(records).to_parquet(tmp_path / "puzzles.parquet")
    assert read_puzzles(tmp_path / "puzzles.jsonl") == found
    assert read_puzzles(tmp_path / "puzzles.parquet") == found


def test_a_puzzle_in_the_released_form_with_a_reasoned_answer(tmp_path):
    record = {
        "system_msg": "You are an expert.",
        "user_msg": "Context: The cell is from a female. \n\nCell 1: MALAT1, IGKV1-12\n"
        "Cell 2: JCHAIN, B2M\n\nMatch the cells above to one of the following cell types:\n"
        "naive B cell\nplasmablast",
        "assistant_msg": "<think>Cell 1 | no.</think>\n<answer>naive B cell | plasmablast</answer>",
    }
    (tmp_path / "one.json").write_text(json.dumps([record]))
    found = read_puzzles(tmp_path / "one.json")
    assert found.puzzles[0].labels == ("naive B cell", "plasmablast")
    assert found.puzzles[0].context == "The cell is from a female."
    assert found.genes == (("MALAT1", "IGKV1-12"), ("JCHAIN", "B2M"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has no puzzles"),
        ("{", "is not json"),
        (
            '[{"question": "x"}]',
            "record 1: a puzzle must have the texts user_msg and assistant_msg",
        ),
        ("[3]", "record 1: a puzzle must have the texts"),
        ('[{"user_msg": "Cell 2: A", "assistant_msg": "b"}]', "must have lines 'Cell 1: GENE"),
    ],
)
def test_files_that_are_no_puzzles_are_refused(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_puzzles(tmp_path / "bad.json")


def test_answers_that_do_not_fit_their_candidates_are_refused(tmp_path):
    write_puzzles(tmp_path / "bad.json", TWO, GENES)
    text = (tmp_path / "bad.json").read_text()
    (tmp_path / "bad.json").write_text(text.replace("T cell | B cell", "T cell | NK cell"))
    with pytest.raises(ValueError, match="record 1: the answer must use each candidate once"):
        read_puzzles(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="puzzles must be a .json, .jsonl, .parquet file"):
        read_puzzles(tmp_path / "bad.txt")


def test_gene_lists_are_embedded_in_their_order(tiny_bag, coding_genes):
    model = LangCell.from_pretrained(str(tiny_bag))
    lists = [tuple(coding_genes[:30]), tuple(coding_genes[29::-1]), tuple(coding_genes[:30])]
    features = embed_gene_lists(model, [*lists, (*coding_genes[:30], "no such gene")])
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    assert features[0] == pytest.approx(features[2], abs=1e-6)
    assert features[0] == pytest.approx(features[3], abs=1e-2)
    assert np.abs(features[0] - features[1]).max() > 1e-3, "the order does not count"
