"""The arena: results and their means, tasks over cells, leaks, resumable runs, cards, the command."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from benchmarks.arena.cells import CellFiles, CellTask, selective
from benchmarks.arena.compare import compare_cards, comparison
from benchmarks.arena.leaderboard import render_leaderboard
from benchmarks.arena.leaks import CellLeaks, TrainedOn, trained_on
from benchmarks.arena.puzzles import PuzzleFileTask, PuzzleTask
from benchmarks.arena.result_card import ResultCard, markdown, overview
from benchmarks.arena.results import Method, Result, Unit, rounded
from benchmarks.arena.retrieval import RetrievalTask
from benchmarks.arena.robustness import RobustnessTask
from benchmarks.arena.run import Suite, run_suite
from benchmarks.arena.suites import Inputs, build_suite
from benchmarks.arena.unseen import UnseenTask
from benchmarks.baselines.annotators import LangCellAnnotator
from benchmarks.data.labelled_samples import read_own_file, sample_file
from langcell.model.embedder import load_embedder
from ontology.graph import Ontology
from tests.support.command_line import run_langcell
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.decide.puzzle_files import read_puzzles, write_puzzles
from zeroshot.decide.puzzles import Puzzle

TYPES = ("CL:0000236", "CL:0000084", "CL:0000576", "CL:0000182")


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


@pytest.fixture(scope="module")
def path(tmp_path_factory, make_cells):
    """40 cells of four types and two donors."""
    adata = make_cells(40, seed=1)
    names = [Ontology.bundled().terms[each].name for each in TYPES]
    adata.obs["kind"] = pd.Categorical((names * 10)[:40])
    adata.obs["donor"] = pd.Categorical((["donor-one"] * 4 + ["donor-two"] * 4) * 5)
    file = tmp_path_factory.mktemp("cells") / "study.h5ad"
    adata.write_h5ad(file)
    return file


@pytest.fixture(scope="module")
def file(path, ontology):
    return read_own_file(path, "kind", "counts", ontology)


@pytest.fixture
def cells(file, ontology):
    return CellFiles.of([file], ontology)


class Oracle:
    """Knows the truth of all cells but the first few, which it takes for one type."""

    def __init__(self, n_wrong=0, wrong="CL:0000236"):
        self.n_wrong, self.wrong, self.asked = n_wrong, wrong, 0

    def scores(self, file, candidates):
        self.asked += 1
        called = file.truth_ids.copy()
        called[: self.n_wrong] = self.wrong
        return np.log(0.9 * (called[:, None] == np.array(candidates)) + 0.1 / len(candidates))


def method(annotator, name="oracle", kind="model", known=None):
    return Method(name=name, kind=kind, annotator=annotator, identity="1", trained_on=known)


def result(name, values, leaks=(), sizes=None):
    units = tuple(
        Unit(
            name=str(i),
            n=(sizes or {}).get(i, 1),
            figures={"f": value},
            leak="yes" if i in leaks else "",
        )
        for i, value in enumerate(values)
    )
    return Result(task="t", method=name, key="k", seconds=1.0, units=units)


def test_figures_weigh_units_alike_or_by_rows():
    found = result("x", [0.0, 1.0], sizes={1: 3})
    assert found.figure("f", by_row=False).mean == 0.5
    assert found.figure("f", by_row=True).mean == 0.75
    assert found.figure("other", by_row=True) is None
    figure = found.figure("f", by_row=False)
    assert 0 <= figure.low < 0.5 < figure.high <= 1


def test_clean_mean_leaves_leaking_units_out():
    mixed = result("x", [0.2, 1.0], leaks=(1,))
    assert mixed.leaks
    assert mixed.figure("f", by_row=False).clean == pytest.approx(0.2)
    assert result("x", [0.2, 1.0], leaks=(0, 1)).figure("f", by_row=False).clean is None
    assert result("x", [0.5]).figure("f", by_row=False).low is None


def test_records_come_back_and_have_no_nan():
    assert rounded({"a": float("nan"), "b": 0.123456}) == {"a": None, "b": 0.12346}
    found = result("x", [0.1, None], leaks=(1,))
    assert Result.of(json.loads(json.dumps(found.record()))) == found


def test_perfect_scores_are_perfect_in_every_space(cells):
    (unit,), _ = CellTask(cells, CellLeaks()).units(method(Oracle()))
    assert unit.n == 40
    assert unit.figures["own macro_f1_all"] == 1
    assert unit.figures["all accuracy"] == 1
    assert unit.figures["own aurc"] == 0
    # Always right with probability 0.9 and a quarter of the rest.
    assert unit.figures["own ece"] == pytest.approx(1 - 0.925)


def test_donors_are_the_units_of_a_single_file(file, ontology):
    cells = CellFiles.of([file], ontology, by_donor="donor")
    units, _ = CellTask(cells, CellLeaks()).units(method(Oracle()))
    assert [(unit.name, unit.n) for unit in units] == [("donor-one", 20), ("donor-two", 20)]


def test_scores_are_asked_for_once(cells):
    oracle = Oracle()
    who = method(oracle)
    CellTask(cells, CellLeaks()).units(who)
    asked = oracle.asked
    RetrievalTask(cells, CellLeaks()).units(who)
    PuzzleTask(cells, CellLeaks(), n_puzzles=2).units(who)
    assert oracle.asked == asked


def test_risk_follows_the_lead_over_the_runner_up():
    scores = np.array([[0.9, 0.1], [0.6, 0.4]])
    truth = np.array(["a", "b"], dtype=object)
    # The surer call is right: risk 0, then 1 of 2.
    assert selective(truth, scores, ("a", "b"))["aurc"] == pytest.approx(0.25)
    assert selective(truth, scores, ("a", "b"))["ece"] == pytest.approx((0.1 + 0.6) / 2)
    assert np.isnan(selective(truth, 5 * scores, ("a", "b"))["ece"])


def test_puzzles_are_solved_jointly_and_by_argmax(cells):
    (unit,), _ = PuzzleTask(cells, CellLeaks(), n_puzzles=5).units(method(Oracle()))
    assert unit.figures["batch_accuracy"] == unit.figures["argmax uniqueness"] == 1
    constant = method(Oracle(n_wrong=40))
    (unit,), _ = PuzzleTask(cells, CellLeaks(), n_puzzles=5).units(constant)
    assert unit.figures["argmax uniqueness"] == 0.25  # one label for the four cells
    assert unit.figures["uniqueness"] == 1


def test_puzzles_of_a_file_are_answered_by_top_genes(tiny_bag, coding_genes, tmp_path, ontology):
    labels = ("B cell", "T cell", "hepatocyte")
    genes = [tuple(coding_genes[i : i + 25]) for i in (0, 50, 100)]
    path = tmp_path / "puzzles.json"
    write_puzzles(path, [Puzzle(cells=(0, 1, 2), labels=labels)] * 2, genes)
    annotator = LangCellAnnotator("x", load_embedder(tiny_bag), ontology, AnnotateOptions())
    task = PuzzleFileTask(path)
    assert task.takes(annotator)
    assert not task.takes(Oracle())
    (unit,), _ = task.units(method(annotator))
    assert (unit.name, unit.n, unit.figures["uniqueness"]) == ("3 cells", 2, 1)
    (answer, _) = annotator.puzzle_answers(read_puzzles(path).puzzles, read_puzzles(path).genes)
    assert sorted(answer) == sorted(labels)


def test_retrieval_ranks_the_own_type_first(cells):
    (unit,), _ = RetrievalTask(cells, CellLeaks()).units(method(Oracle()))
    assert unit.figures["cell mrr"] == unit.figures["text mrr"] == 1
    assert unit.figures["cell chance mrr"] < 0.1


def test_robustness_is_a_share_of_the_plain_figure(cells):
    (unit,), _ = RobustnessTask(cells, CellLeaks()).units(method(Oracle()))
    assert unit.figures["kept"] == 1
    assert unit.figures["synonym"] is None  # it reads no words


def test_refused_changes_are_noted(cells):
    class Refuser(Oracle):
        def scores(self, file, candidates):
            if self.asked == 2:
                self.asked += 1
                raise ValueError("too few genes")
            return super().scores(file, candidates)

    (unit,), notes = RobustnessTask(cells, CellLeaks()).units(method(Refuser()))
    assert unit.figures["counts x 0.2"] is None
    assert unit.figures["kept"] == 1
    assert notes == ["counts x 0.2 of study: too few genes"]


def test_unseen_types_are_units(cells):
    task = UnseenTask(cells, frozenset(TYPES[1:]))
    (unit,), _ = task.units(method(Oracle()))
    assert unit.name.startswith("B cell")
    assert (unit.n, unit.figures["descendant"], unit.figures["h descendant"]) == (10, 1, 1)


def test_samples_keep_three_of_each_type_and_are_made_once(file, tmp_path):
    sample = sample_file(file, 14, tmp_path)
    assert sample.n_cells == 14
    assert min(np.unique(sample.truth_ids.astype(str), return_counts=True)[1]) >= 3
    made = sample.path.stat().st_mtime_ns
    assert sample_file(file, 14, tmp_path).path.stat().st_mtime_ns == made
    assert sample_file(file, 100, tmp_path) is file


def test_own_files_need_two_named_types(tmp_path, make_cells, ontology):
    adata = make_cells(6, seed=1)
    adata.obs["kind"] = pd.Categorical(["B cell"] * 6)
    adata.write_h5ad(tmp_path / "one.h5ad")
    with pytest.raises(ValueError, match="names only one cell type"):
        read_own_file(tmp_path / "one.h5ad", "kind", "counts", ontology)


def test_leaks_by_study_cells_and_donors(file, tmp_path, make_cells):
    leaks = CellLeaks()
    assert leaks.of(None, file) == ""
    assert leaks.of(TrainedOn(sources=("study My Study 2020",)), file) == "study in training"
    adata = anndata.read_h5ad(file.path)
    copied, other = tmp_path / "copied.h5ad", tmp_path / "other.h5ad"
    copy = adata[:20].copy()
    copy.obs = copy.obs.drop(columns="donor")
    copy.write_h5ad(copied)
    fresh = make_cells(20, seed=9)
    fresh.obs["donor"] = pd.Categorical(["donor-two"] * 20)
    fresh.write_h5ad(other)
    known = TrainedOn(sources=("a",), cells={copied: "counts"})
    assert leaks.of(known, file) == "cells of copied"
    known = TrainedOn(sources=("b",), cells={other: "counts"})
    assert leaks.of(known, file) == "donors of other"
    fresh.obs = fresh.obs.drop(columns="donor")
    fresh.write_h5ad(other)
    assert CellLeaks().of(known, file) == ""


def test_training_files_are_known_from_the_manifest(tmp_path):
    (tmp_path / "train" / "cells").mkdir(parents=True)
    (tmp_path / "train" / "cells" / "a.h5ad").touch()
    assert trained_on(tmp_path, ["a"]).sources == ("a",)
    (tmp_path / "manifest.tsv").write_text("name\tscale\tstudy\na\tTPM/CPM\tZheng 2017\n")
    known = trained_on(tmp_path, ["a", "b"])
    assert known.sources == ("a Zheng 2017", "b")
    assert list(known.cells.values()) == ["linear"]
    assert known.names("Zheng 2017")
    assert not known.names("Zheng 2018")


def make_suite(cells, *annotators, skipped=frozenset()):
    tasks = (CellTask(cells, CellLeaks()), RetrievalTask(cells, CellLeaks()))
    who = tuple(method(each, name=f"oracle {i}") for i, each in enumerate(annotators))
    return Suite(name="quick", tasks=tasks, methods=who, skipped=skipped, left_out=("x: missing",))


def test_a_run_goes_on_where_it_was(cells, tmp_path):
    said, oracle = [], Oracle()
    first = run_suite(make_suite(cells, oracle), tmp_path, said.append)
    asked = oracle.asked
    assert len(said) == len(first) == 2
    (broken,) = (tmp_path / "parts").glob("retrieval-*.json")
    broken.unlink()
    again = run_suite(make_suite(cells, Oracle()), tmp_path, said.append)
    assert [each.units for each in again] == [each.units for each in first]
    assert len(said) == 3
    assert asked > 0


def test_skipped_pairs_are_not_asked(cells, tmp_path):
    suite = make_suite(cells, Oracle(), skipped=frozenset({("model", "retrieval")}))
    assert [task.name for _, task in suite.pairs()] == ["cells"]


@pytest.fixture
def card(cells, tmp_path, ontology):
    suite = make_suite(cells, Oracle(n_wrong=10), Oracle())
    results = run_suite(suite, tmp_path / "run", lambda line: None)
    return ResultCard.of_run(suite, results, ontology.title)


def test_cards_come_back_from_json(card, tmp_path):
    card.write(tmp_path / "results.json")
    assert ResultCard.read(tmp_path / "results.json") == card
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ResultCard.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"is not a results\.json"):
        ResultCard.read(tmp_path / "bad.json")


def test_tables_rank_and_mark(card):
    assert [each.method for each, _ in card.ranked(card.tasks[0])] == ["oracle 1", "oracle 0"]
    assert "| oracle 1 | model | 1.000" in overview(card)
    assert "x: missing" in markdown(card)
    leaking = result("oracle 1", [1.0], leaks=(0,))
    assert "†" not in overview(card)
    task = card.tasks[0].name
    marked = Result.of({**leaking.record(), "task": task})
    marked.units[0].figures["own macro_f1_all"] = 1.0
    other = ResultCard(**{**vars(card), "results": (marked,)})
    assert "1.000†" in overview(other)
    assert "† oracle 1: yes (0)" in markdown(other)


def test_the_leaderboard_needs_nothing_beside_it(card):
    page = render_leaderboard(ResultCard(**{**vars(card), "left_out": ("<b>",)}))
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<li>&lt;b&gt;</li>" in page


def test_two_runs_are_compared(card):
    worse = ResultCard(**{**vars(card), "results": tuple(
        Result(**{**vars(each), "method": {"oracle 0": "oracle 1", "oracle 1": "oracle 0"}[each.method]})
        for each in card.results
    )})  # fmt: skip
    found = compare_cards(card, worse)
    first = next(each for each in found if (each.task, each.method) == ("cells", "oracle 1"))
    assert first.after < first.before == 1
    assert first.is_same_data
    assert f"{first.after - first.before:+.3f}" in comparison(found)
    with pytest.raises(ValueError, match="have no method and task in common"):
        compare_cards(card, ResultCard(**{**vars(card), "results": ()}))


def test_an_unknown_suite_is_named(tmp_path, ontology):
    with pytest.raises(ValueError, match="unknown suite 'fast'; known: quick, full"):
        build_suite("fast", Inputs(corpus=tmp_path, folder=tmp_path), ontology)


def test_without_corpus_the_blood_cells_of_scanpy_are_called(tmp_path, ontology):
    inputs = Inputs(corpus=tmp_path / "nowhere", folder=tmp_path, models=("mini-fast",))
    suite = build_suite("quick", inputs, ontology)
    assert [task.name for task in suite.tasks] == [
        "cells", "puzzles", "retrieval", "robustness", "few-shot",
    ]  # fmt: skip
    assert "700 cells, 1 files, 1 studies" in suite.tasks[0].data
    (line,) = suite.left_out
    assert line.startswith("validation studies, marker lists and baselines: ")
    (unit,), _ = suite.tasks[0].units(method(Oracle()))
    assert (unit.name, unit.n) == ("Zheng 2017", 700)


def test_the_command_measures_a_users_file(path, tiny_bag, tmp_path):
    """Without a corpus: one line says what is missing, and the models are measured all the same."""
    out = tmp_path / "out"
    words = ["benchmark", "run", "--h5ad", path, "--label-key", "kind", "--out", out]
    words += ["--model", tiny_bag, "--shared", tmp_path / "nowhere"]
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    assert "left out: validation studies, marker lists and baselines" in done.stderr
    assert "| few-shot kNN, PCA" in done.stdout
    assert {each.name for each in out.iterdir()} >= {
        "results.json", "results.md", "leaderboard.html",
    }  # fmt: skip
    results = out / "results.json"
    compared = run_command("benchmark", "compare", results, results)
    assert compared.returncode == 0
    assert "+0.000" in compared.stdout
    again = run_command(*words)
    assert again.stdout == done.stdout
    assert " s\n" not in again.stderr  # nothing is measured again


def test_the_command_refuses_what_it_cannot_do(path, tmp_path):
    done = run_command("benchmark", "run", "--h5ad", path)
    assert done.returncode == 1
    assert "--h5ad needs --label-key" in done.stderr
    done = run_command("benchmark", "compare", tmp_path / "a", tmp_path / "b")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # pandas 2.1, of an empty one
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--h5ad", "empty.h5ad", "--label-key", "kind"], "only empty values"),
        (["--h5ad", "mouse.h5ad", "--label-key", "kind"], "those of mouse or rat"),
        (["--lists", "wrong.csv"], "wrong.csv: column 'dataset' is missing"),
        (["--puzzles", "wrong.json"], "wrong.json has no puzzles"),
        (["--model", "nothing/here/at/all"], "nothing/here/at/all"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_refused_run_leaves_nothing(words, message, is_there, path, tiny_bag, tmp_path):
    adata = anndata.read_h5ad(path)
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    adata.var_names = [name.capitalize() for name in adata.var_names]
    adata.write_h5ad(tmp_path / "mouse.h5ad")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    (tmp_path / "wrong.json").write_text("[]")
    if is_there:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = ["--model", tiny_bag, *words]
    done = run_langcell(tmp_path, "benchmark", "run", *words, "--out", "out", "--shared", "none")
    assert done.returncode == 1 and not done.stdout
    assert message in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_results_need_a_folder(path, tiny_bag, tmp_path):
    (tmp_path / "out").write_text("mine")
    words = ["--h5ad", path, "--label-key", "kind", "--model", tiny_bag, "--shared", "none"]
    done = run_langcell(tmp_path, "benchmark", "run", *words, "--out", "out")
    assert done.returncode == 1
    assert "cannot write to out: it is a file; pass a folder as --out" in done.stderr
    assert (tmp_path / "out").read_text() == "mine"


def run_command(*words):
    return run_langcell(Path.cwd(), *words)
