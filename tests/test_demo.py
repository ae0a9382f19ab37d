"""What users see of the project first: the demo and its figure."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.demo import PUBLISHED, scores
from langcell.checkpoint import list_bundled_models
from ontology.graph import Ontology
from zeroshot.plots import plot_labels


def test_published_labels_are_live_terms():
    ontology = Ontology.bundled()
    assert all(term_id in ontology.index for term_id in PUBLISHED.values())


def test_scores_are_read_from_what_the_command_prints():
    printed = (
        "n_cells\t30\naccuracy\t0.5000\nnot scored\t3 cells\ncells\tshare\ta\tb\nwrote\tx.csv\n"
    )
    assert scores(printed) == {"n_cells": 30.0, "accuracy": 0.5}


def test_a_label_has_one_colour_in_all_panels(tmp_path):
    rng = np.random.default_rng(0)
    place = rng.normal(size=(60, 2))
    left = np.array(["a", "b", "c"] * 20)
    right = np.array([f"type {i}" for i in range(20)] * 3)
    plot_labels(place, {"one": left, "two": left}, tmp_path / "same.png")
    picture = imread(tmp_path / "same.png")[:, :, :3]
    half = picture.shape[1] // 2

    def colours(pixels):
        flat = (pixels.reshape(-1, 3) * 255).round().astype(int)
        distinct, n = np.unique(flat, axis=0, return_counts=True)
        return {tuple(each) for each in distinct[n > 300]}

    assert colours(picture[:, :half]) == colours(picture[:, half:])
    assert len(colours(picture)) >= 5  # three labels, black and white
    plot_labels(place, {"one": left, "two": right}, tmp_path / "many.png", max_labels=4)
    grey = (208, 208, 208)  # what is beyond the four largest
    assert grey in colours(imread(tmp_path / "many.png")[:, :, :3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.png", "same.png"]


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
        "umap.png",
    ]
    restricted = scores(done.stdout.split("2. Only the ten published types")[1])
    assert restricted["accuracy"] > restricted["majority_accuracy"]
