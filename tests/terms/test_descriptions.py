"""Texts of terms: the paper's template to the letter, aspects and their dropout, variants."""

from pathlib import Path

import numpy as np
import pytest

from ontology import Ontology, describe, describe_aspects, text_variants
from ontology.descriptions import ASPECTS
from ontology.term import clean_definition

TINY = Path(__file__).parents[1] / "data" / "tiny.obo"
DONOR = {
    "cell type": "CL:0000236",
    "tissue": "UBERON:0000178",
    "disease": "MONDO:0100096",
    "development stage": "HsapDv:0000258",
    "sex": "PATO:0000384",
    "assay": "EFO:0009922",
    "organism": "NCBITaxon:9606",
    "ethnicity": "HANCESTRO:0005",
}


@pytest.fixture(scope="module")
def cl() -> Ontology:
    return Ontology.bundled()


@pytest.fixture(scope="module")
def tiny() -> Ontology:
    return Ontology.from_obo(TINY)


def test_the_template_of_the_paper(cl: Ontology, tiny: Ontology) -> None:
    assert describe(cl, "CL:0000236") == (
        "cell type: B cell. A lymphocyte of B lineage that is capable of B cell mediated "
        "immunity.; "
    )
    assert describe(tiny, "CL:0000002") == "cell type: right cell. ", "no definition"


def test_every_cell_type_has_a_text_in_the_template(cl: Ontology) -> None:
    for term_id in cl.ids:
        text = describe(cl, term_id)
        assert text.startswith(f"cell type: {cl.terms[term_id].name}. ")
        assert text.endswith("; ") == bool(cl.terms[term_id].definition)
        assert "\n" not in text and "PMID" not in text and "\u200b" not in text


def test_an_obsolete_or_unknown_id_has_no_text(cl: Ontology) -> None:
    with pytest.raises(KeyError, match="obsolete"):
        describe(cl, "CL:0000003")
    with pytest.raises(KeyError, match="CL:9999999 is not a term"):
        describe(cl, "CL:9999999")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A cell.", "A cell."),
        ("A  cell\n of the gut .", "A cell of the gut."),
        ("Fires (Rostock et al. 2018, PMID:29229553). Hurts.", "Fires. Hurts."),
        ("Fuses with `myotubes` (CL:0008003) .", "Fuses with myotubes."),
        ("Has spines. (Brehmer, 2021)", "Has spines."),
        ("Secretes CGRP (encoded by CALCA).", "Secretes CGRP (encoded by CALCA)."),
        ("", ""),
    ],
)
def test_definitions_are_cleaned(raw: str, clean: str) -> None:
    assert clean_definition(raw) == clean


def test_all_eight_aspects_in_order(cl: Ontology) -> None:
    text = describe_aspects(DONOR)
    places = [text.index(f"{aspect}: ") for aspect in ASPECTS]
    assert places == sorted(places)
    assert text.startswith(describe(cl, "CL:0000236"))
    assert "disease: COVID-19. A disease caused by" in text
    assert "sex: male. " in text and "organism: Homo sapiens. ethnicity: European" in text


def test_free_text_and_unknown_values() -> None:
    aspects = {"cell type": "zorg cell", "tissue": "left: upper lobe", "sex": "unknown"}
    assert describe_aspects(aspects) == "cell type: zorg cell. tissue: left: upper lobe. "


def test_an_id_that_later_releases_dropped_keeps_its_name() -> None:
    text = describe_aspects({"cell type": "B cell", "development stage": "HsapDv:0000087"})
    assert text == "cell type: B cell. development stage: adult stage. "


def test_a_given_ontology_is_used(tiny: Ontology) -> None:
    text = describe_aspects({"cell type": "CL:0000001"}, ontologies={"CL": tiny})
    assert text == "cell type: left cell. A cell on the left.; "


def test_dropout_never_drops_the_cell_type(cl: Ontology) -> None:
    rng = np.random.default_rng(0)
    assert describe_aspects(DONOR, drop=1.0, rng=rng) == describe(cl, "CL:0000236")
    assert describe_aspects(DONOR, drop=0.0, rng=rng) == describe_aspects(DONOR)


def test_dropout_has_its_rate_and_its_seed() -> None:
    aspects = {"cell type": "B cell", "tissue": "blood", "sex": "male"}
    drop = {"tissue": 0.25}

    def texts(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [describe_aspects(aspects, drop=drop, rng=rng) for _ in range(2_000)]

    drawn = texts(7)
    assert drawn == texts(7)
    assert all("sex: male" in text for text in drawn)
    # Five standard deviations of a share of 2,000 draws.
    share = sum("tissue" not in text for text in drawn) / len(drawn)
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 2_000) ** 0.5


@pytest.mark.parametrize(
    ("aspects", "drop", "line"),
    [
        ({"cell type": "B cell", "mood": "calm"}, 0.0, "unknown aspect 'mood'"),
        ({"tissue": "blood"}, 0.0, "must have a value for 'cell type'"),
        ({"cell type": "unknown"}, 0.0, "must have a value for 'cell type'"),
        ({"cell type": "B cell"}, 0.5, "needs a random generator"),
    ],
)
def test_wrong_aspects_are_named(aspects: dict[str, str], drop: float, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        describe_aspects(aspects, drop=drop)


def test_text_variants(cl: Ontology, tiny: Ontology) -> None:
    assert text_variants(tiny, "CL:0000001") == (
        "cell type: left cell. A cell on the left.; ",
        "left cell",
        "cell type: left cell. ",
        "cell type: L cell. A cell on the left.; ",
        "A cell on the left.",
    )
    variants = text_variants(cl, "CL:0000236")
    assert variants[0] == describe(cl, "CL:0000236")
    assert len(set(variants)) == len(variants) == 4 + len(cl.terms["CL:0000236"].synonyms)
