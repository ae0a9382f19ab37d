"""The command `langcell ontology`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ontology.cli import app

TINY = str(Path(__file__).parents[1] / "data" / "tiny.obo")
run = CliRunner().invoke


def test_describe_prints_the_text_alone_on_stdout() -> None:
    result = run(app, ["describe", "left cells", "--obo", TINY])
    assert result.exit_code == 0
    assert result.stdout == "cell type: left cell. A cell on the left.; \n"
    assert result.stderr == "tiny 2020-02-29, 6 terms\n"


def test_describe_reads_the_bundled_release_by_default() -> None:
    result = run(app, ["describe", "CL:0000236"])
    assert result.stdout.startswith("cell type: B cell. A lymphocyte of B lineage")


def test_describe_of_an_unknown_label_names_what_comes_near() -> None:
    result = run(app, ["describe", "lefft cell", "--obo", TINY])
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == (
        "'lefft cell' is unknown in tiny 2020-02-29; did you mean CL:0000001 left cell?"
    )


def test_resolve_prints_a_table(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("L cells\n\nCL_0000003\n", encoding="utf-8")
    result = run(app, ["resolve", "right cell", "--file", str(labels), "--obo", TINY])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "label\tid\tname\thow\tsuggestions",
        "right cell\tCL:0000002\tright cell\tname\t",
        "L cells\tCL:0000001\tleft cell\tsynonym\t",
        "CL_0000003\tCL:0000003\tmiddle cell\tid\t",
    ]


def test_resolve_fails_where_a_label_has_no_id() -> None:
    result = run(app, ["resolve", "twin", "deep cell", "--obo", TINY])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1] == (
        "twin\t\t\tambiguous\tCL:0000002 right cell; CL:0000003 middle cell"
    )
    assert "1 of 2 labels have no id" in result.stderr


def test_resolve_wants_labels() -> None:
    assert run(app, ["resolve"]).exit_code == 2


@pytest.mark.parametrize(
    ("content", "line"), [(None, "label file"), (b"\xff\xfe\x00", "not UTF-8 text")]
)
def test_resolve_names_a_bad_file(tmp_path: Path, content: bytes | None, line: str) -> None:
    labels = tmp_path / "labels.txt"
    if content is not None:
        labels.write_bytes(content)
    result = run(app, ["resolve", "--file", str(labels), "--obo", TINY])
    assert isinstance(result.exception, (ValueError, FileNotFoundError))
    assert line in str(result.exception)


def test_tree_opens_a_term_once() -> None:
    result = run(app, ["tree", "cell", "--depth", "9", "--obo", TINY])
    assert result.stdout.splitlines() == [
        "CL:0000000 cell",
        "  CL:0000001 left cell",
        "    CL:0000003 middle cell",
        "      CL:0000006 deep cell",
        "  CL:0000002 right cell",
        "    CL:0000003 middle cell ...",
    ]


def test_tree_has_a_depth_and_a_way_up() -> None:
    result = run(app, ["tree", "cell", "--depth", "1", "--obo", TINY])
    assert result.stdout.splitlines()[1:] == ["  CL:0000001 left cell", "  CL:0000002 right cell"]
    result = run(app, ["tree", "middle cell", "--up", "--obo", TINY])
    assert result.stdout.splitlines() == [
        "CL:0000003 middle cell",
        "  CL:0000001 left cell",
        "    CL:0000000 cell",
        "  CL:0000002 right cell",
        "    CL:0000000 cell",
    ]


def test_help_shows_an_example() -> None:
    for command in ("describe", "resolve", "tree"):
        assert f"langcell ontology {command}" in run(app, [command, "--help"]).stdout
