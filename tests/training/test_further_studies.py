"""Training studies that models are trained without."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from benchmarks.training.further_studies import FURTHER, is_finer, run_without
from ontology.graph import Ontology
from pretrain.recipe.recipe_file import find_recipe, read_recipe

T_CELL, CD4, B_CELL = "CL:0000084", "CL:0000624", "CL:0000236"


def test_calls_below_the_label_are_finer():
    ontology = Ontology.bundled()
    tree = SimpleNamespace(ids=(T_CELL, CD4, B_CELL, "text: of no ontology"))
    by_depth = SimpleNamespace(terms=np.array([[0, 1], [0, 1], [2, -1], [3, 0]]), tree=tree)
    truth = np.array([T_CELL, CD4, T_CELL, T_CELL])
    finer = is_finer(by_depth, truth, ontology)
    assert finer.tolist() == [[False, True], [False, False], [False, False], [False, False]]


@pytest.mark.parametrize("study", FURTHER, ids=lambda study: study.name)
def test_a_run_leaves_every_file_of_its_study_out(study, tmp_path):
    run = run_without(study, tmp_path, Path("corpus"))
    everything = read_recipe(find_recipe(Path("mini-fast-member")), ("corpus_root=corpus",))
    files = {name for source in everything.sources for name in source.files}
    kept = {name for source in run.recipe.sources for name in source.files}
    left_out = files - kept
    assert {f"train/cells/{name}.h5ad" for name in study.cells} <= left_out
    assert all(any(part in name for part in study.without) for name in left_out)
    assert kept < files
    # What is kept keeps its scale.
    scales = {name: source.scale for source in everything.sources for name in source.files}
    for source in run.recipe.sources:
        assert {scales[name] for name in source.files} == {source.scale}
    assert yaml.safe_load(run.overrides[0].partition("=")[2])
