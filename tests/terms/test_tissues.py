"""Tissues and the cell types that they may hold."""

from pathlib import Path

import pytest

from ontology import Ontology, TissueMap, all_cell_types

PANCREAS, LIVER, BLOOD = "UBERON:0001264", "UBERON:0002107", "UBERON:0000178"
BETA, HEPATOCYTE, FIBROBLAST, T_CELL = "CL:0000169", "CL:0000182", "CL:0000057", "CL:0000084"


@pytest.fixture(scope="module")
def tissues() -> TissueMap:
    return TissueMap(Ontology.bundled())


@pytest.mark.parametrize(
    ("tissue", "term_id"),
    [("pancreas", PANCREAS), ("Liver", LIVER), ("UBERON_0000178", BLOOD), ("zorg", None)],
)
def test_tissues_resolve(tissues: TissueMap, tissue: str, term_id: str | None) -> None:
    assert tissues.resolve(tissue).term_id == term_id


def test_a_type_is_bound_to_the_organ_it_names(tissues: TissueMap) -> None:
    assert tissues.organs(BETA) == {PANCREAS}
    assert tissues.organs(HEPATOCYTE) == {LIVER}
    assert tissues.organs(FIBROBLAST) == tissues.organs(T_CELL) == frozenset()


def test_plausible_types_of_a_tissue(tissues: TissueMap) -> None:
    pancreas = set(tissues.plausible_cell_types("pancreas"))
    assert {BETA, FIBROBLAST, T_CELL} <= pancreas and HEPATOCYTE not in pancreas
    islets = set(tissues.plausible_cell_types("islet of Langerhans"))
    assert islets == pancreas, "a part is in its organ"
    blood = set(tissues.plausible_cell_types(BLOOD))
    assert T_CELL in blood and not blood & {BETA, HEPATOCYTE}
    assert len(blood) < len(pancreas) < len(all_cell_types(Ontology.bundled()))


def test_a_system_holds_the_types_of_its_organs(tissues: TissueMap) -> None:
    digestive = set(tissues.plausible_cell_types("digestive system"))
    assert {HEPATOCYTE, "CL:0002071"} <= digestive, "of liver and of large intestine"
    assert "CL:0000653" not in digestive, "podocyte of the kidney"


def test_a_tissue_of_no_organ_rules_nothing_out(tissues: TissueMap) -> None:
    assert tissues.plausible_cell_types("mucosa") == all_cell_types(Ontology.bundled())


def test_an_unknown_tissue_is_named_with_what_comes_near(tissues: TissueMap) -> None:
    with pytest.raises(ValueError, match=r"tissue 'pancraes' is unknown in UBERON .*pancreas"):
        tissues.plausible_cell_types("pancraes")


def test_relations_of_an_obo_file_bind(shared: Path) -> None:
    release = Ontology.from_obo(shared / "ontology" / "cl-2024-04-05.obo.gz")
    tissues = TissueMap(release)
    assert tissues.organs(BETA) == {PANCREAS}
    assert tissues.organs("CL:0000312") == {"UBERON:0002097"}, "keratinocyte, part of the skin"
    assert HEPATOCYTE not in tissues.plausible_cell_types("pancreas")
