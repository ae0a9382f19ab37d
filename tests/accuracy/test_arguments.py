"""What the command lines of the benchmarks share."""

import pytest

from benchmarks.data.arguments import add_model, add_models, make_parser, parse, validation_files
from langcell.runtime.threads import set_threads, thread_count


@pytest.fixture
def read(monkeypatch):
    """Return a function that reads words with a parser, and sets the threads back."""

    def call(parser, *words):
        monkeypatch.setattr("sys.argv", ["benchmark", *words])
        return parse(parser)

    yield call
    set_threads(None)


def test_threads_and_corpus_are_of_every_benchmark(read, tmp_path, monkeypatch):
    monkeypatch.setenv("LANGCELL_SHARED", str(tmp_path))
    parser = make_parser("Measure a thing: `python -m x`.\n\nAnd more.")
    assert parser.description == "Measure a thing: `python -m x`."
    assert read(parser).shared == tmp_path
    given = read(parser, "--threads", "1", "--shared", "elsewhere")
    assert (given.threads, str(given.shared)) == (1, "elsewhere")
    assert thread_count() == 1
    assert read(make_parser("Measure.", threads=2)).threads == 2


def test_one_model_or_several(read):
    one, several = make_parser("Measure."), make_parser("Measure.")
    add_model(one)
    add_models(several)
    assert read(one).model == "mini-fast"
    assert read(one, "--model", "mini").model == "mini"
    assert read(several).model is None
    assert read(several, "--model", "a", "--model", "b").model == ["a", "b"]


def test_without_a_corpus_one_line_says_what_to_name(read, tmp_path):
    given = read(make_parser("Measure."), "--shared", str(tmp_path))
    with pytest.raises(SystemExit, match="manifest.tsv is missing; name its folder with --shared"):
        validation_files(given)
