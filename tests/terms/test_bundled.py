"""The bundled Cell Ontology: facts of the release, order and candidates."""

import doctest
import subprocess
import sys
from importlib import import_module
from importlib.resources import files

import numpy as np
import pytest
from cellxgene_ontology_guide.ontology_parser import OntologyParser

from ontology import NEVER_CALLED, Ontology, all_cell_types
from ontology.candidates import excluded_branches

B_CELL, T_CELL, CD4, CD8 = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000625"


@pytest.fixture(scope="module")
def cl() -> Ontology:
    return Ontology.bundled()


def test_bundled_release_is_built_once_and_names_itself(cl: Ontology) -> None:
    assert Ontology.bundled() is cl
    assert cl.name == "CL"
    year, month, day = map(int, cl.release.split("-"))
    assert (year, month) >= (2025, 2) and 1 <= day <= 31
    assert cl.relations == ("is_a or part_of",)


def test_ancestors_of_b_cell(cl: Ontology) -> None:
    names = {cl.terms[term_id].name for term_id in cl.ancestors(B_CELL)}
    assert {"lymphocyte of B lineage", "lymphocyte", "leukocyte", "cell"} <= names
    assert B_CELL not in cl.ancestors(B_CELL)
    assert T_CELL not in cl.ancestors(B_CELL)


def test_depth_grows_from_parent_to_child(cl: Ontology) -> None:
    assert cl.depth("CL:0000000") == 0
    for term_id in cl.ids:
        assert all(cl.depth(parent) < cl.depth(term_id) for parent in cl.parents(term_id))


def test_lca_and_distance_of_cd4_and_cd8(cl: Ontology) -> None:
    shared = cl.lca(CD4, CD8)
    assert shared is not None and cl.terms[shared].name == "mature alpha-beta T cell"
    assert cl.distance(CD4, CD8) == 2
    assert cl.lca(CD4, T_CELL) == T_CELL
    assert cl.distance(B_CELL, B_CELL) == 0


def test_is_comparable_follows_one_line_only(cl: Ontology) -> None:
    assert cl.is_comparable(CD4, T_CELL) and cl.is_comparable(T_CELL, CD4)
    assert cl.is_comparable(CD4, CD4)
    assert not cl.is_comparable(CD4, CD8)


def test_closure_equals_the_ancestors_that_the_package_states(cl: Ontology) -> None:
    parser = OntologyParser()
    for term_id in cl.ids[::37]:
        assert cl.ancestors(term_id) == set(parser.get_term_ancestors(term_id))
        if term_id != "CL:0000000":  # to the package the parts of a cell are among its kinds
            assert cl.descendants(term_id) == set(parser.get_term_descendants(term_id))


def test_all_cell_types_leave_out_what_tissue_never_means(cl: Ontology) -> None:
    called = set(all_cell_types(cl))
    assert len(called) > 3_000
    assert not called & NEVER_CALLED
    assert not called & excluded_branches().keys()
    assert "CL:0000286" not in called, "hyphal cell"
    assert "CL:0000010" not in called, "cultured cell"
    assert {B_CELL, T_CELL, CD4, CD8, "CL:0001064"} <= called
    assert all("CL:0000000" in cl.ancestors(term_id) for term_id in list(called)[::50])


def test_excluded_branches_bear_the_names_of_the_release(cl: Ontology) -> None:
    table = files("ontology") / "data" / "excluded_branches.tsv"
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    assert {term_id for term_id, _, _ in rows} == excluded_branches().keys()
    for term_id, name, reason in rows:
        assert cl.terms[term_id].name == name and reason


@pytest.mark.parametrize("module", ["descriptions", "graph", "labels", "term", "wording"])
def test_examples_in_the_documentation_run(module: str) -> None:
    failed, attempted = doctest.testmod(import_module(f"ontology.{module}"))
    assert attempted > 0 and failed == 0


def test_public_names_are_there_and_bring_no_heavy_import() -> None:
    code = (
        "import sys, ontology; [getattr(ontology, name) for name in ontology.__all__]; "
        "print(sorted({'torch', 'langcell', 'anndata', 'pandas'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout.strip() == b"[]"


def test_unknown_and_obsolete_ids_are_named_with_a_replacement(cl: Ontology) -> None:
    with pytest.raises(KeyError, match="CL:9999999 is not a term of CL"):
        cl.parents("CL:9999999")
    with pytest.raises(KeyError, match="obsolete native cell.*use CL:0000000"):
        cl.parents("CL:0000003")
    assert cl.current("CL:0000003") == "CL:0000000"
    assert cl.current("CL:9999999") is None


def test_no_ontology_of_that_prefix() -> None:
    with pytest.raises(ValueError, match="no bundled ontology 'XY'; available: .*CL"):
        Ontology.bundled("XY")


def test_closure_among_a_few_terms_keeps_their_order(cl: Ontology) -> None:
    few = cl.closure_of([CD4, B_CELL, T_CELL]).toarray()
    assert np.array_equal(few, [[1, 0, 1], [0, 1, 0], [0, 0, 1]])


def test_no_candidate_names_another_species():
    ontology = Ontology.bundled()
    names = {ontology.terms[term_id].name for term_id in all_cell_types(ontology)}
    assert "group 2 innate lymphoid cell, mouse" not in names
    assert not any("(Mmus)" in name or "Nematoda" in name for name in names)
    assert {"group 2 innate lymphoid cell", "neuroblast (sensu Vertebrata)"} <= names
