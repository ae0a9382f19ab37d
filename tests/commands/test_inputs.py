"""Several inputs of one command."""

from pathlib import Path

import pytest

from tests.support.command_line import run_langcell
from zeroshot.commands.inputs import find_inputs, name_outputs


@pytest.fixture
def folder(tmp_path):
    for name in ("b.h5ad", "a.h5", "a.langcell.h5ad", ".hidden.h5ad", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "store.zarr" / ".zgroup").touch()
    (tmp_path / "tenx").mkdir()
    (tmp_path / "tenx" / "matrix.mtx.gz").touch()
    (tmp_path / "plots").mkdir()
    return tmp_path


def test_a_folder_stands_for_the_inputs_in_it(folder):
    names = [path.name for path in find_inputs([folder])]
    assert names == ["a.h5", "b.h5ad", "store.zarr", "tenx"]


def test_stores_are_inputs_themselves(folder):
    given = [folder / "store.zarr", folder / "tenx", folder / "missing.h5ad"]
    assert find_inputs(given) == given


def test_a_folder_without_inputs(folder):
    with pytest.raises(ValueError, match="plots: a folder without inputs; wanted .h5ad"):
        find_inputs([folder / "plots"])


def test_an_input_given_twice(folder):
    with pytest.raises(ValueError, match="b.h5ad is given twice"):
        find_inputs([folder, folder / "b.h5ad"])


def test_outputs_of_one_name_get_the_folder_before_it():
    inputs = [Path(f"/data/{donor}/filtered_feature_bc_matrix") for donor in ("d1", "d2")]
    assert [path.name for path in name_outputs(inputs, Path("out"), form="csv")] == [
        "d1_filtered_feature_bc_matrix.langcell.csv",
        "d2_filtered_feature_bc_matrix.langcell.csv",
    ]
    with pytest.raises(ValueError, match="would both be written as d1_x.langcell.h5ad"):
        name_outputs([Path("/a/d1/x.h5ad"), Path("/b/d1/x.h5ad")], Path("out"))


@pytest.fixture
def run(tiny_bag, tmp_path):
    def run(*words):
        return run_langcell(tmp_path, "zeroshot", "--model", tiny_bag, *words)

    return run


def test_one_that_fails_does_not_keep_the_rest_from_being_done(run, make_cells, tmp_path):
    (tmp_path / "data").mkdir()
    for seed, name in enumerate(("a", "c")):
        make_cells(20, seed=seed).write_h5ad(tmp_path / "data" / f"{name}.h5ad")
    (tmp_path / "data" / "b.h5ad").write_text("not an h5ad")
    done = run("--h5ad", "data", "--out", "named", "--format", "csv")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert "langcell: error: data/b.h5ad: not an HDF5 file" in done.stderr
    assert lines[-1] == "langcell: error: 1 of 3 inputs failed: data/b.h5ad; the rest are done"
    names = sorted(path.name for path in (tmp_path / "named").iterdir())
    assert names == ["a.langcell.csv", "c.langcell.csv"]
    # Again, with the broken one mended: what is done is left as it is.
    make_cells(20).write_h5ad(tmp_path / "data" / "b.h5ad")
    again = ["data/a.h5ad", "data/b.h5ad", "data/c.h5ad"]
    done = run("--h5ad", *again, "--out", "named", "--format", "csv", "--skip-existing")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote\tnamed/b.langcell.csv\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.h5ad", "b.h5ad", "--out", "x.h5ad"], "--out x.h5ad names a file; several inputs need"),
        (["a.h5ad", "b.h5ad", "--format", "tsv"], "--format must be h5ad, csv, parquet, got 'tsv'"),
        (
            ["a.h5ad", "b.h5ad", "--inplace", "--out", "x"],
            "to the input itself; leave --out x away",
        ),
        (
            ["a.h5ad", "--inplace", "--out", "x.h5ad"],
            "to the input itself; leave --out x.h5ad away",
        ),
        (
            ["a.h5ad", "b.h5ad", "--inplace", "--skip-existing"],
            "leave --skip-existing and --format",
        ),
        (
            ["a.h5ad", "b.h5ad", "--inplace", "--format", "csv"],
            "leave --skip-existing and --format",
        ),
        (
            ["a.h5ad", "--out", "x.csv", "--report", "x.html"],
            "the output asked for is .csv; name an",
        ),
        (
            ["a.h5ad", "b.h5ad", "--out", "x", "--format", "csv", "--report", "y"],
            "--report reads an annotated h5ad, and the output asked for is .csv",
        ),
        (
            ["a.h5ad", "b.h5ad", "--out", "x", "--format", "parquet", "--smooth", "auto"],
            "read the scores, which an h5ad output alone holds; the output asked for is .parquet",
        ),
        (
            ["a.h5ad", "b.h5ad", "--out", "x", "--report", "y.html"],
            "--report y.html names a file; several inputs need a folder",
        ),
        (["a.h5ad", "--out", "x.h5ad", "--report", "x.pdf"], "its name must end in .html"),
        (
            ["a.h5ad", "--tissue-mode", "restrict"],
            "need a tissue; give a name or 'auto' as --tissue",
        ),
        (["a.h5ad", "b.h5ad", "--devices", "2"], "several devices share the work on one input"),
        (["a.h5ad", "--format", "csv"], "--format and --skip-existing are for several inputs"),
        (
            ["a.h5ad", "--devices", "2", "--device", "mps"],
            "several devices must all be cpu or cuda",
        ),
        (["a.h5ad", "--devices", "0"], "--devices and --nodes must be at least 1"),
    ],
)
def test_wishes_that_do_not_go_together(run, tmp_path, words, message):
    for name in ("a.h5ad", "b.h5ad"):
        (tmp_path / name).touch()
    done = run("--h5ad", *words)
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5ad", "b.h5ad"]


def test_an_input_that_is_not_there_keeps_the_others_from_being_begun(run, make_cells, tmp_path):
    make_cells(20).write_h5ad(tmp_path / "a.h5ad")
    done = run("--h5ad", "a.h5ad", "b.h5ad", "--out", "named")
    assert done.returncode == 1
    assert done.stderr == "langcell: error: b.h5ad: no such file or folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]
