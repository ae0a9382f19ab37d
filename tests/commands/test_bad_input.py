"""What goes wrong for users: one clear line, a failing status, and nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import anndata
import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import sparse

from tests.support.command_line import run_langcell


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """Return a function that runs the command line in a folder of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path / "cache"))

    def call(*words, command="zeroshot", model=tiny_model):
        return run_langcell(folder, command, *words, "--model", model)

    return call


@pytest.fixture
def refused(run, tmp_path):
    """Return a function that runs the command line, sees it refuse, and returns the line."""

    def call(*arguments, **options):
        before = sorted(tmp_path.rglob("*"))
        done = run(*arguments, **options)
        assert done.returncode == 1 and not done.stdout
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("langcell: error: ")]
        assert len(errors) == 1 and lines[-1] == errors[0]
        assert all(line.startswith("langcell: ") for line in lines)
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr
        assert sorted(tmp_path.rglob("*")) == before
        return errors[0]

    return call


@pytest.fixture
def cells(make_cells):
    return make_cells(30)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes an AnnData beside the working folder."""

    def write(adata, name="cells.h5ad"):
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


def test_good_input_passes(run, cells, written, tmp_path):
    done = run("--h5ad", written(cells))
    assert done.returncode == 0
    assert done.stdout.startswith("wrote\t") and "cells.langcell.h5ad" in done.stdout
    assert (tmp_path / "work" / "cells.langcell.h5ad").exists()
    assert "30 in" in done.stderr and "protein-coding genes" in done.stderr


def test_missing_file(refused):
    assert "nowhere.h5ad: no such file" in refused("--h5ad", "nowhere.h5ad")
    assert "nowhere.h5ad: no such file" in refused("--h5ad", "nowhere.h5ad", "--truth", "x")


@pytest.mark.parametrize(
    ("command", "words", "out"),
    [
        ("zeroshot", ("--head", "nothing", "--labels", "T cel"), "y.h5ad"),
        ("zeroshot", ("calibrate", "--truth", "x"), "y.json"),
        ("fewshot", ("fit", "--label-key", "x"), "y"),
        ("fewshot", ("predict", "--head", "nothing"), "y.h5ad"),
        ("fewshot", ("donors", "--head", "nothing", "--donor-key", "x"), "y.csv"),
        ("search", ("T cell",), "y.csv"),
        ("explain", ("--labels", "T cel"), "y.csv"),
        ("embed", (), "y.h5ad"),
    ],
)
def test_an_input_that_is_not_there_is_named_first(refused, tmp_path, command, words, out):
    (tmp_path / out).write_text("precious")
    words = (*words, "--h5ad", "nowhere.h5ad", "--out", tmp_path / out)
    line = refused(*words, command=command, model="nothing-of-that-name")
    assert line == "langcell: error: nowhere.h5ad: no such file or folder"


def test_an_output_is_judged_before_a_model_is_fetched(refused, cells, written, tmp_path):
    (tmp_path / "y.h5ad").write_text("precious")
    words = ("--h5ad", written(cells), "--out", tmp_path / "y.h5ad")
    for command in ("zeroshot", "embed"):
        line = refused(*words, command=command, model="nothing-of-that-name")
        assert "y.h5ad exists already" in line


def test_not_an_h5ad(refused, tmp_path):
    (tmp_path / "cells.h5ad").write_text("gene,cell1,cell2\n")
    assert "not an HDF5 file" in refused("--h5ad", tmp_path / "cells.h5ad")
    assert "not an HDF5 file" in refused("--h5ad", tmp_path / "cells.h5ad", "--truth", "x")


def test_hdf5_of_another_kind(refused, tmp_path):
    with h5py.File(tmp_path / "cells.h5ad", "w") as file:
        file["weights"] = np.ones(3)
    assert "an HDF5 file, but neither AnnData (no 'var') nor a single 10x matrix" in refused(
        "--h5ad", tmp_path / "cells.h5ad"
    )


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_h5ad(refused, cells, written, share):
    path = written(cells)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "cells.h5ad: damaged or cut short" in refused("--h5ad", path)


def test_no_gene_ids_that_match(refused, cells, written):
    cells.var_names = [f"feature_{i}" for i in range(cells.n_vars)]
    assert "none of the 400 gene names is known; expected human Ensembl ids" in refused(
        "--h5ad", written(cells)
    )


def test_below_the_coverage_floor(refused, cells, written):
    few = cells[:, :8].copy()
    assert "known genes" in refused("--h5ad", written(few))


def test_mouse_genes(refused, cells, written):
    cells.var_names = [name.capitalize() for name in cells.var_names]
    assert "mouse" in refused("--h5ad", written(cells)).lower()
    # What is wrong with the values would lead nowhere: the species comes first.
    cells.X = cells.X.multiply(0.37).tocsr()
    line = refused("--h5ad", written(cells))
    assert "mouse" in line.lower() and "--allow-normalized" not in line


@pytest.mark.parametrize(
    ("value", "said"), [(-1.0, "negative values"), (np.nan, "NaN or infinite values")]
)
def test_negative_or_missing_counts(refused, cells, written, value, said):
    cells.X[20, np.flatnonzero(cells.X[20].toarray().ravel())[0]] = value
    assert f"no raw counts: X holds {said}" in refused("--h5ad", written(cells))


def test_scaled_matrix_with_no_counts(refused, cells, written):
    dense = cells.X.toarray()
    cells.X = ((dense - dense.mean(0)) / (dense.std(0) + 1)).astype(np.float32)
    assert (
        "X holds negative values (scaled); name the layer that holds them with --layer"
        in refused("--h5ad", written(cells))
    )
    assert "X holds negative values (scaled)" in refused(
        "--h5ad", written(cells), "--allow-normalized"
    )


def test_normalised_values_need_a_word(refused, run, cells, written):
    totals = np.asarray(cells.X.sum(1))
    cells.X = sparse.csr_matrix(np.log1p(cells.X.toarray() / totals * 1e4))
    assert "--allow-normalized" in refused("--h5ad", written(cells))
    done = run("--h5ad", written(cells), "--allow-normalized")
    assert done.returncode == 0 and "expm1" in done.stderr


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # pandas 2.1, of an empty one
def test_zero_cells(refused, cells, written):
    assert "X has 0 cells and 400 genes; expected at least one of each" in refused(
        "--h5ad", written(cells[:0].copy())
    )


def test_labels_that_resolve_to_nothing(refused, cells, written):
    path = written(cells)
    line = refused("--h5ad", path, "--labels", "B cell; T cel; monocyte")
    assert "'T cel' (did you mean T cell (CL:0000084)" in line and "'text: T cel'" in line
    line = refused("--h5ad", path, "--labels", "B cell; CL:9999999")
    assert "'CL:9999999' (no current term of release" in line and "text:" not in line
    assert "no file of labels" in refused("--h5ad", path, "--labels", "labels.txt")
    assert "at least two" in refused("--h5ad", path, "--labels", "B cell; B cells")
    assert "too general" in refused("--h5ad", path, "--labels", "B cell; cell")


def test_a_checkpoint_of_another_format(refused, cells, written, tiny_model, tmp_path):
    path = written(cells)
    assert "no folder 'nothing-of-that-name'" in refused(
        "--h5ad", path, model="nothing-of-that-name"
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert", "hidden_size": 768}')
    assert "is not a langcell checkpoint: it has no model.safetensors" in refused(
        "--h5ad", path, model=other
    )
    for name in ("model.safetensors", "genes.tsv"):
        (other / name).write_bytes((tiny_model / name).read_bytes())
    assert "config.json: not a langcell checkpoint of format 1" in refused(
        "--h5ad", path, model=other
    )


def test_the_folder_of_a_run_names_the_checkpoint_in_it(
    refused, cells, written, tiny_bag, tmp_path
):
    path, run = written(cells), tmp_path / "run"
    shutil.copytree(tiny_bag, run / "best")
    (run / "run.json").write_text("{}")
    line = refused("--h5ad", path, model=run)
    assert f"it has no config.json; did you mean {run / 'best'}?" in line
    (run / "best" / "config.json").unlink()
    assert "did you mean" not in refused("--h5ad", path, model=run)


def test_a_checkpoint_with_missing_tensors(refused, cells, written, tiny_model, tmp_path):
    path = written(cells)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "genes.tsv", "model.safetensors"):
        (other / name).write_bytes((tiny_model / name).read_bytes())
    tensors = load_file(other / "model.safetensors")
    tensors.pop("cell_projection.weight")
    save_file(tensors, other / "model.safetensors")
    assert "cell_projection.weight" in refused("--h5ad", path, model=other)
    (other / "model.safetensors").write_bytes(b"cut short")
    assert "model.safetensors is damaged" in refused("--h5ad", path, model=other)


def test_an_output_that_cannot_be_written(refused, cells, written, tmp_path):
    path = written(cells)
    assert "there is no folder" in refused("--h5ad", path, "--out", tmp_path / "no" / "y.h5ad")
    assert "must end in" in refused("--h5ad", path, "--out", tmp_path / "y.xlsx")
    (tmp_path / "y.csv").mkdir()
    assert "it is a folder" in refused("--h5ad", path, "--out", tmp_path / "y.csv")
    (tmp_path / "y.h5ad").write_text("precious")
    assert "--overwrite" in refused("--h5ad", path, "--out", tmp_path / "y.h5ad")
    assert (tmp_path / "y.h5ad").read_text() == "precious"
    assert "is the input itself" in refused("--h5ad", path, "--out", path, "--overwrite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission(refused, cells, written, tmp_path):
    path = written(cells)
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "permission" in refused("--h5ad", path, "--out", tmp_path / "locked" / "y.h5ad")


@pytest.mark.parametrize("device", ["cuda:77", "banana"])
def test_a_device_that_is_not_there(refused, cells, written, device):
    line = refused("--h5ad", written(cells), "--device", device)
    assert f"no device {device!r} on this machine; available: cpu" in line


def test_truth_that_is_not_there(refused, cells, written):
    line = refused("--h5ad", written(cells), "--truth", "celltype")
    assert "no column 'celltype' in obs; it has cell_type" in line


def test_duplicate_gene_names_are_summed(run, cells, written):
    names = cells.var_names.tolist()
    names[1] = names[0]
    cells.var_names = names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's own remark on the names
        path = written(cells)
    done = run("--h5ad", path)
    assert done.returncode == 0
    assert any("warning" in line and "summed" in line for line in done.stderr.splitlines())


@pytest.mark.parametrize("command", ["zeroshot", "embed"])
def test_ctrl_c_in_the_middle(make_cells, tiny_model, tmp_path, command):
    adata = make_cells(200)
    many = anndata.AnnData(X=sparse.vstack([adata.X] * 200, format="csr"), var=adata.var)
    many.write_h5ad(tmp_path / "cells.h5ad")
    words = ["-m", "langcell", command, "--h5ad", "cells.h5ad", "--model", str(tiny_model)]
    process = subprocess.Popen(
        [sys.executable, *words, "--out", "named.h5ad", "--threads", "1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that put these tests into the background made them deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # The temporary file or folder is there once the work on cells has begun.
    deadline = time.monotonic() + 60
    begun = {"zeroshot": ".named.h5ad.partial/job.json", "embed": ".named.h5ad.*.tmp"}[command]
    while not list(tmp_path.glob(begun)) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not out
    assert "Traceback" not in err
    said, left = err.strip().splitlines()[-1], {path.name for path in tmp_path.iterdir()}
    if "cells are kept in .named.h5ad.partial; the same command resumes there" in said:
        assert command == "zeroshot" and left == {"cells.h5ad", ".named.h5ad.partial"}
    else:
        assert said == "langcell: error: stopped by the user; no unfinished output is left"
        assert left == {"cells.h5ad"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--smooth", "much"), "--smooth must be a number or 'auto', got 'much'"),
        (("--smooth", "-1"), "--smooth must not be negative, got -1"),
        (("--cluster-key", "leiden"), "no column 'leiden' in obs; it has cell_type"),
        (("--assign-within", "donor"), "no column 'donor' in obs; it has cell_type"),
        (
            ("--assign-within", "cell_type", "--cluster-key", "auto"),
            "--cluster-key auto makes many clusters of each type",
        ),
        (
            ("--smooth", "auto", "--out", "calls.csv"),
            "read the scores, which an h5ad output alone holds; the output asked for is .csv",
        ),
    ],
)
def test_second_calls_that_cannot_be_made(refused, cells, written, words, message):
    assert message in refused("--h5ad", written(cells), *words)


def test_clusters_that_a_report_cannot_hold(refused, make_cells, written):
    adata = make_cells(220)
    adata.obs["barcode"] = adata.obs_names
    line = refused("--h5ad", written(adata), "--cluster-key", "barcode", "--report", "x.html")
    assert "obs['barcode'] has 220 different values, and a report takes at most 200" in line


def test_a_file_of_several_modalities(refused, tmp_path):
    with h5py.File(tmp_path / "cells.h5mu", "w") as file:
        for name in ("prot", "rna"):
            file.create_group(f"mod/{name}/obs")
        file.create_group("obs")
        file.create_group("var")
    for words in ((), ("--truth", "cell_type"), ("--cluster-key", "leiden")):
        line = refused("--h5ad", tmp_path / "cells.h5mu", *words)
        assert "cells.h5mu is a MuData file with modalities prot, rna; write one as h5ad" in line
        assert "mod='rna').write_h5ad('rna.h5ad')" in line
    line = refused("--h5ad", tmp_path / "cells.h5mu", "--out", "x.html", command="report")
    assert "is a MuData file" in line
