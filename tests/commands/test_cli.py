"""The face of the command line: help, outputs, truth."""

import ast
import re
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import typer

from benchmarks.commands.benchmark import app as benchmark
from langcell import cli
from langcell.model.langcell import LangCell
from tests.support.command_line import run_langcell
from tests.support.released_files import V2, symbols_to_ids, write_dictionaries, write_geneformer
from zeroshot.commands.annotate import app as zeroshot
from zeroshot.commands.fewshot import app as fewshot

HEAVY = ("torch", "anndata", "lightning", "transformers", "scanpy", "pandas", "faiss", "numba")
GROUPS = ("", "ontology", "zeroshot")
COMMANDS = (
    "convert",
    "annotate",
    "annotate calibrate",
    "search",
    "explain",
    "embed",
    "export",
    "models",
    "pretrain",
    "pretrain apptainer",
    "pretrain slurm",
    "report",
    "ontology describe",
    "ontology resolve",
    "ontology tree",
)


def _langcell(*words, cwd=None):
    return run_langcell(cwd or Path.cwd(), *words)


@pytest.mark.parametrize("command", [*GROUPS, *COMMANDS])
def test_help_answers_without_heavy_imports(command):
    code = (
        "import sys, langcell.cli\n"
        f"sys.argv = {['langcell', *command.split(), '--help']!r}\n"
        "try:\n    langcell.cli.main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('loaded:', loaded, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "loaded: []"
    assert done.stdout.startswith(
        "Usage: langcell" if not command else f"Usage: langcell {command}"
    )
    if command in COMMANDS:
        assert "langcell " + command in done.stdout.split("\n", 1)[1], "help shows no example"


# What a bag of genes needs none of, each a tenth of a second to two seconds of the start.
UNNEEDED = (
    *("anndata", "lightning", "matplotlib", "networkx", "obonet", "pandas", "scanpy"),
    *("scipy.special", "scipy.stats", "sklearn", "sympy", "torch", "transformers", "zarr"),
)


def test_naming_cells_with_a_bag_imports_nothing_that_it_does_not_need(work, tiny_bag):
    words = ["langcell", "zeroshot", "--h5ad", "cells.h5ad", "--model", str(tiny_bag)]
    code = (
        "import sys, langcell.cli\n"
        f"sys.argv = {[*words, '--out', 'bag.csv']!r}\n"
        "try:\n    langcell.cli.main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('loaded:', [name for name in {UNNEEDED!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=work
    )
    assert done.stdout.splitlines() == ["wrote\tbag.csv", "loaded: []"], done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_cells):
    folder = tmp_path_factory.mktemp("work")
    adata = make_cells(45)
    adata.obs["mixed"] = ["B cells", "weird thing", "CL:0000576"] * 15
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def test_truth_is_scored_and_what_is_unknown_is_listed(work, tiny_model):
    words = ("--h5ad", "cells.h5ad", "--model", tiny_model, "--out", "truth.csv", "--threads", 1)
    labels = ("--labels", "B cell; T cell; monocyte")
    done = _langcell("zeroshot", *words, *labels, "--truth", "mixed", cwd=work)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines() if line.count("\t") == 1)
    called = pd.read_csv(work / "truth.csv", index_col=0)["langcell_leaf_ontology_term_id"]
    truth = pd.Series(["CL:0000236", None, "CL:0000576"] * 15, index=called.index).dropna()
    accuracy = (called[truth.index] == truth).mean()
    assert lines["n_cells"] == "30" and lines["n_types"] == "2"
    assert float(lines["accuracy"]) == pytest.approx(accuracy, abs=1e-4)
    assert lines["majority_accuracy"] == "0.5000"
    made = pd.read_csv(work / "truth.csv", index_col=0)["langcell_ontology_term_id"][truth.index]
    assert float(lines["call_coverage"]) == pytest.approx(made.notna().mean(), abs=1e-4)
    assert lines["not scored"] == "15 cells labelled 'weird thing': no one cell type"
    assert lines["wrote"] == "truth.csv"
    table = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") > 1]
    assert table[0] == ["cells", "share", "label", "called"]
    for label in ("B cell", "monocyte"):
        assert sum(int(row[0]) for row in table[1:] if row[2] == label) == 15


def test_in_place_and_the_name_of_the_model(work, tiny_model):
    (work / "mine.h5ad").write_bytes((work / "cells.h5ad").read_bytes())
    words = ("--h5ad", "mine.h5ad", "--model", tiny_model, "--inplace", "--key-added", "mine")
    done = _langcell("zeroshot", *words, cwd=work)
    assert done.returncode == 0 and done.stdout == "wrote\tmine.h5ad\n", done.stderr
    adata = anndata.read_h5ad(work / "mine.h5ad")
    assert adata.uns["mine"]["model"] == str(tiny_model)
    assert {"mine_leaf_label", "mine_margin"} <= set(adata.obs.columns)


def test_second_calls_stand_beside_the_raw_ones(work, tiny_bag):
    words = ("--h5ad", "cells.h5ad", "--model", tiny_bag, "--labels", "B cell; T cell; monocyte")
    second = ("--smooth", "auto", "--cluster-key", "mixed")
    done = _langcell("zeroshot", *words, *second, "--out", "second.h5ad", cwd=work)
    assert done.returncode == 0 and done.stdout == "wrote\tsecond.h5ad\n", done.stderr
    adata = anndata.read_h5ad(work / "second.h5ad")
    new = {"langcell_leaf_label", "langcell_smooth_label", "langcell_cluster_label"}
    assert new <= set(adata.obs.columns) and "langcell_assigned_label" not in adata.obs
    assert adata.uns["langcell"]["decoding"]["smooth"]["lambda"] == 3
    for words_shown in ("calls changed", "weird thing", "agree"):
        assert words_shown in done.stderr


def test_embed_writes_the_same_features_everywhere(work, tiny_model):
    for name in ("e.h5ad", "e.npy", "e.parquet"):
        done = _langcell(
            "embed", "--h5ad", "cells.h5ad", "--model", tiny_model, "--out", name, cwd=work
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"wrote\t{name}\n"
    features = np.load(work / "e.npy")
    adata = anndata.read_h5ad(work / "e.h5ad")
    table = pd.read_parquet(work / "e.parquet").set_index("cell")
    assert features.shape == (45, 16) and features.dtype == np.float32
    assert (adata.obsm["X_langcell"] == features).all()
    assert (table.to_numpy() == features).all()
    assert table.index.tolist() == adata.obs_names.tolist()
    assert adata.uns["langcell"]["counts_source"] == "X"
    model = LangCell.from_pretrained(str(tiny_model))
    cells = anndata.read_h5ad(work / "cells.h5ad")
    # Another number of threads: sums in another order.
    assert model.encode_cells(cells) == pytest.approx(features, abs=1e-5)


def test_models_lists_what_is_bundled():
    done = _langcell("models")
    assert done.returncode == 0
    assert done.stdout.startswith("name\tgenes a cell")


def test_wrong_usage_is_status_2():
    done = _langcell("zeroshot", "--rerank", "many")
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("langcell: error: ") and "--rerank" in line
    assert line.endswith("langcell zeroshot --help")
    (line,) = _langcell("zeroshoot").stderr.splitlines()
    assert "No such command 'zeroshoot'" in line


def test_what_an_interrupted_command_says_reaches_the_user():
    code = (
        "import sys, langcell.cli as cli\n"
        "@cli.app.command('stop')\n"
        "def stop():\n"
        "    raise KeyboardInterrupt('stopped; resume with --resume auto')\n"
        "sys.argv = ['langcell', 'stop']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.strip().endswith("langcell: error: stopped; resume with --resume auto")


def test_truth_that_names_no_cell_type_stops_before_anything_is_written(work, tiny_model):
    adata = anndata.read_h5ad(work / "cells.h5ad")
    adata.obs["leiden"] = pd.Categorical(["0"] * adata.n_obs)
    adata.write_h5ad(work / "clusters.h5ad")
    words = ("--h5ad", "clusters.h5ad", "--model", tiny_model, "--out", "none.csv")
    done = _langcell("zeroshot", *words, "--truth", "leiden", cwd=work)
    assert done.returncode == 1
    assert "no label in obs['leiden'] names a cell type" in done.stderr
    assert not (work / "none.csv").exists()


def test_a_converted_geneformer_embeds_cells_and_names_none(work, coding_genes):
    source = work / "geneformer"
    write_dictionaries(source, symbols_to_ids(coding_genes), V2)
    write_geneformer(source, len(coding_genes) + 4, positions=64)
    done = _langcell("convert", source, "ours", cwd=work)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "layout\tGeneformer (V2: <cls> and <eos>)",
        "genes\t400; at most 62 per cell are read",
        "cell encoder\t2 layers of 16, pooling cls",
        "text encoder\tnone; the model can only embed cells",
        "wrote\tours",
    ]
    done = _langcell("embed", "--h5ad", "cells.h5ad", "--out", "g.npy", "--model", "ours", cwd=work)
    assert done.returncode == 0, done.stderr
    assert np.load(work / "g.npy").shape == (45, 16)
    done = _langcell("zeroshot", "--h5ad", "cells.h5ad", "--model", "ours", cwd=work)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the model has no text tower: it can only embed cells" in done.stderr


@pytest.mark.parametrize("becomes", [None, ValueError, RuntimeError])
def test_sigterm_is_said_in_a_line_whatever_the_code_that_it_meets_makes_of_it(
    tmp_path, monkeypatch, becomes
):
    def app(**options):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            if becomes is None:
                raise
            raise becomes("could not determine the shape of object type") from None

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_register_commands", lambda: None)
    monkeypatch.setattr(cli, "_signals", [])
    done = run_langcell(tmp_path, "embed")
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "langcell: error: stopped by SIGTERM; no unfinished output is left\n"


def _raised_words(path):
    """Yield the words of each error that a module raises."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            parts = [each.value for each in ast.walk(node.exc) if isinstance(each, ast.Constant)]
            yield " ".join(str(each) for each in parts)


def test_errors_spell_options_as_the_command_line_does():
    """`--key-added` and not `key_added`; what Python alone has is `key_added=`."""
    options = {
        option.name
        for command in (typer.main.get_command(each) for each in (zeroshot, fewshot, benchmark))
        for each in (command, *command.commands.values())
        for option in each.params
        if "_" in option.name
    }
    assert {"key_added", "group_key", "tissue_mode"} <= options
    spelt = re.compile(rf"\b({'|'.join(sorted(options))})\b(?!=)")
    root = Path(__file__).parents[2]
    found = [
        f"{path.name}: {words}"
        for package in ("langcell", "zeroshot", "benchmarks")
        for path in sorted((root / package).glob("*.py"))
        for words in _raised_words(path)
        if spelt.search(words)
    ]
    assert found == []
