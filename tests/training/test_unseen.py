"""Accuracy type by type, its chance level, and the comparison of removed and kept types."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.data.unseen_cells import CELLS_PER_TYPE, choose_types, draw_type_cells
from benchmarks.scoring.type_scores import score_types
from benchmarks.training.unseen import TypeTable, compare_groups
from benchmarks.training.unseen_table import print_groups
from langcell.genes.gene_table import GeneTable
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from pretrain.cells.memory_corpus import Corpus
from pretrain.recipe.config import Recipe
from pretrain.recipe.sources import SourceFile

B, T, CD4, NEURON = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000540"


def test_every_type_weighs_the_same_and_chance_counts_subtypes() -> None:
    candidates = (B, T, CD4, NEURON)
    truth = np.array([B, B, B, T], dtype=object)
    scores = np.array([[9, 1, 0, 2], [0, 9, 1, 2], [1, 9, 0, 2], [0, 1, 9, 2]], dtype=np.float32)
    found = score_types(truth, scores, candidates, Ontology.bundled())
    assert found.accuracy.to_dict() == pytest.approx({B: 1 / 3, T: 0})
    assert found.descendant.to_dict() == pytest.approx({B: 1 / 3, T: 1})
    assert found.top5.to_dict() == {B: 1, T: 1}
    assert found.chance_accuracy.to_dict() == {B: 0.25, T: 0.25}
    assert found.chance_descendant.to_dict() == {B: 0.25, T: 0.5}
    assert found.chance_top5.to_dict() == {B: 1, T: 1}


def test_chance_is_what_random_scores_reach() -> None:
    ontology = Ontology.bundled()
    candidates = tuple(sorted({T, *list(ontology.descendants(T))[:20], B, NEURON}))
    rng = np.random.default_rng(0)
    truth = np.array([T, B] * 4000, dtype=object)
    found = score_types(truth, rng.random((8000, len(candidates))), candidates, ontology)
    for figure in ("accuracy", "top5", "descendant"):
        # Four standard errors of 4,000 draws.
        np.testing.assert_allclose(found[figure], found[f"chance_{figure}"], atol=0.032)


def test_groups_are_compared_by_mean_and_harmonic_mean(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"accuracy": [0.2, 0.6, 1.0], "top5": 1.0, "descendant": [0.2, 0.6, 1.0]}
    chance = {f"chance_{each}": 0.1 for each in figures}
    index = pd.MultiIndex.from_tuples([("A", B), ("A", T), ("C", T)])
    table = TypeTable(
        cells="training studies",
        space="all",
        types=pd.DataFrame({**figures, **chance}, index=index),
    )
    row = compare_groups(table, {B}, {T, NEURON})
    assert (row.removed_types, row.kept_types) == (1, 1)
    assert (row.removed_accuracy, row.kept_accuracy) == pytest.approx((0.2, 0.8))
    assert row.h_accuracy == pytest.approx(0.32)
    records = [
        {"run": "without them", "seed": seed, "cells": table.cells, "space": "all", **row}
        for seed in (0, 1)
    ]
    records.append({**records[0], "seed": 2, "kept_accuracy": 0.1, "removed_accuracy": np.nan})
    print_groups(pd.DataFrame(records))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[-4:]] == ["0", "1", "2", "mean"]
    assert lines[-1].count("0.320") == 2


def test_as_many_kept_types_are_chosen_whatever_their_order() -> None:
    kept = [f"CL:{number:07d}" for number in range(50)]
    removed, chosen = choose_types([B, T], kept)
    assert removed == {B, T}
    assert len(chosen) == 2
    assert choose_types([B, T], reversed(kept))[1] == chosen


def test_cells_are_drawn_once_and_profiles_again(tiny_model: Path) -> None:
    table = GeneTable.bundled()
    genes = tuple(table.ensembl_ids[table.is_protein_coding][:400])
    rng = np.random.default_rng(0)
    source = np.array([0] * 30 + [0] * 3 + [1] * 2)
    corpus = Corpus(
        values=sparse.csr_matrix(rng.poisson(2.0, (35, 400)).astype(np.float32)),
        ensembl_ids=genes,
        measured=np.ones((2, 400), bool),
        sources=(
            SourceFile(path=Path("cells.h5ad"), is_profile=False, scale="counts"),
            SourceFile(path=Path("means.h5ad"), is_profile=True, scale="linear"),
        ),
        source=source,
        term=np.array([0] * 30 + [1] * 3 + [2] * 2),
        study=source,
        aspect=np.zeros(35, int),
        is_integral=np.array([True, True]),
        term_ids=(T, B, NEURON),
        studies=("a", "b"),
        aspects=(("", "", ""),),
        reports=(),
    )
    recipe = Recipe.model_validate({"sources": [{"files": ["x"]}]})
    drawn = draw_type_cells(corpus, recipe, {T, B, NEURON})
    types, sizes = np.unique(drawn.term_ids.astype(str), return_counts=True)
    assert dict(zip(types, sizes, strict=True)) == {T: CELLS_PER_TYPE, B: 3, NEURON: CELLS_PER_TYPE}
    single = drawn.counts[drawn.term_ids == B].toarray()
    np.testing.assert_array_equal(
        np.sort(single, axis=0), np.sort(corpus.values[30:33].toarray(), axis=0)
    )
    profiles = drawn.counts[drawn.term_ids == NEURON].toarray()
    assert len(np.unique(profiles, axis=0)) == CELLS_PER_TYPE
    model = LangCell.from_pretrained(tiny_model)
    features = drawn.features(model)
    assert features.shape == (len(drawn.term_ids), 16)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=2e-3)  # kept as float16
