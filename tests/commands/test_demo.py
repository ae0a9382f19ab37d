"""What users see of the project first: the demo and its figure."""

import subprocess
import sys

import pytest

from benchmarks.demo import PUBLISHED, scores
from langcell.checkpoints.checkpoint import list_bundled_models
from ontology.graph import Ontology


def test_published_labels_are_live_terms():
    ontology = Ontology.bundled()
    assert all(term_id in ontology.index for term_id in PUBLISHED.values())


def test_scores_are_read_from_what_the_command_prints():
    printed = (
        "n_cells\t30\naccuracy\t0.5000\nnot scored\t3 cells\ncells\tshare\ta\tb\nwrote\tx.csv\n"
    )
    assert scores(printed) == {"n_cells": 30.0, "accuracy": 0.5}


@pytest.mark.skipif("mini" not in list_bundled_models(), reason="no bundled model in this checkout")
def test_the_demo_agrees_with_the_published_labels(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "not a held-out test" in done.stdout
    made = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert made == [
        "own_labels.csv",
        "own_labels.txt",
        "pbmc68k_reduced.h5ad",
        "pbmc68k_reduced.langcell.h5ad",
        "report.html",
        "umap.png",
    ]
    restricted = scores(done.stdout.split("2. Only the ten published types")[1])
    assert restricted["accuracy"] > restricted["majority_accuracy"]
