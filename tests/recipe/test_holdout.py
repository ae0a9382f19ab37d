"""Types that a run leaves out: which ones, with what, and that training never meets them."""

import csv
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest

from ontology.graph import Ontology
from pretrain.cells.memory_corpus import read_corpus
from pretrain.recipe.cell_config import Columns, Holdout
from pretrain.recipe.config import Recipe
from pretrain.recipe.holdout import choose_held_out, hold_out
from pretrain.recipe.sources import find_sources
from pretrain.run.dry_run import plan

B, PLASMA, T, CD4, NEURON, FAT = (
    "CL:0000236",
    "CL:0000786",
    "CL:0000084",
    "CL:0000624",
    "CL:0000540",
    "CL:0000136",
)
LEUKOCYTE = "CL:0000738"
TERMS = (B, PLASMA, T, CD4, NEURON, FAT)


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology.bundled()


@pytest.fixture
def recipe(tmp_path: Path, make_cells: Callable[..., anndata.AnnData]) -> Recipe:
    for name, seed in (("one", 0), ("two", 1)):
        cells = make_cells(24, seed=seed)
        cells.obs["cell_type_ontology_term_id"] = np.array(TERMS)[np.arange(24) % 6]
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    return Recipe.model_validate(
        {
            "corpus_root": str(tmp_path),
            "output": str(tmp_path / "run"),
            "sources": [{"files": ["one.h5ad", "two.h5ad"]}],
            "holdout": {"share": 0.34, "seed": 3},
        }
    )


def test_the_choice_depends_on_seed_and_ids_alone(ontology: Ontology) -> None:
    rows = dict.fromkeys(TERMS, 5)
    backwards = dict.fromkeys(reversed(TERMS), 70)
    settings = Holdout(share=0.5, seed=1)
    chosen = choose_held_out(rows, settings, ontology)
    assert choose_held_out(backwards, settings, ontology).roots == chosen.roots
    others = {choose_held_out(rows, Holdout(share=0.5, seed=s), ontology).roots for s in range(8)}
    assert len(others) > 1


@pytest.mark.parametrize("seed", range(12))
def test_descendants_go_with_a_type_and_count(ontology: Ontology, seed: int) -> None:
    rows = {LEUKOCYTE: 2, **dict.fromkeys(TERMS, 5)}
    held_out = choose_held_out(rows, Holdout(share=0.43, seed=seed), ontology)
    lost = held_out.term_ids & rows.keys()
    assert 0 < len(lost) <= 3
    assert LEUKOCYTE not in lost  # with its four subtypes it is more than the share
    for root in held_out.roots:
        assert ontology.descendants(root) <= held_out.term_ids
    assert sum(held_out.rows.values()) == 5 * len(lost)


def test_rows_of_held_out_types_leave_the_corpus(recipe: Recipe, ontology: Ontology) -> None:
    files = find_sources(recipe)
    held_out = hold_out(recipe, files, ontology)
    lost = held_out.term_ids & set(TERMS)
    assert lost
    corpus = read_corpus(files, Columns(), ontology, without=held_out.term_ids)
    assert set(corpus.term_ids) == set(TERMS) - lost
    assert corpus.n_examples == 8 * (6 - len(lost)) == 48 - sum(held_out.rows.values())


def test_the_dry_run_and_the_file_name_them(
    recipe: Recipe, ontology: Ontology, tmp_path: Path
) -> None:
    planned = plan(recipe)
    held_out = hold_out(recipe, find_sources(recipe), ontology)
    n_lost = len(held_out.term_ids & set(TERMS))
    assert f"held out {n_lost} of 6 training types with {8 * n_lost} rows" in planned.held_out[0]
    assert len(planned.held_out) == 1 + len(held_out.roots)
    assert all(file.n_kept == 24 - 4 * n_lost for file in planned.files)
    held_out.write(tmp_path / "holdout.tsv", ontology)
    with (tmp_path / "holdout.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["term_id"] for row in rows} == held_out.term_ids
    assert {row["term_id"] for row in rows if row["chosen"] == "yes"} == set(held_out.roots)


def test_without_a_share_nothing_is_held_out(recipe: Recipe, ontology: Ontology) -> None:
    everything = recipe.model_copy(update={"holdout": Holdout()})
    held_out = hold_out(everything, find_sources(recipe), ontology)
    assert not held_out.term_ids
    assert held_out.lines(ontology) == []
    assert plan(everything).held_out == ()


def test_less_than_one_type_is_refused(ontology: Ontology) -> None:
    with pytest.raises(ValueError, match="give a larger share"):
        choose_held_out({B: 3, T: 4}, Holdout(share=0.1), ontology)
