"""Markers of definitions: what is named, with which sign, and which genes it stands for."""

import pytest

from langcell.genes.gene_table import GeneTable
from ontology.graph import Ontology
from ontology.term import Term
from zeroshot.evidence.markers import _surface_names, term_markers


def _found(definition, name="cell"):
    markers = term_markers(Term(id="CL:1", name=name, definition=definition))
    return [(each.name, each.expected, each.symbols) for each in markers]


@pytest.mark.parametrize(
    ("definition", "wanted"),
    [
        ("A cell that is CD25-positive.", [("CD25", "positive", ("IL2RA",))]),
        (
            "It is CD56-dim and CD127-low.",
            [("CD56", "dim", ("NCAM1",)), ("CD127", "low", ("IL7R",))],
        ),
        ("FoxP3-positive", [("FoxP3", "positive", ("FOXP3",))]),
        ("An enterocyte that is BEST4+.", [("BEST4", "positive", ("BEST4",))]),
        ("It is CD3-negative.", [("CD3", "negative", ("CD3D", "CD3E", "CD3G"))]),
        ("It is CD45RA-positive.", [("CD45RA", "positive", ())]),
        ("It expresses the marker somatostatin (SOM).", [("SOM", "positive", ("SST",))]),
        ("In mice it expresses Trem2.", [("Trem2", "positive", ("TREM2",))]),
        ("It lacks expression of canonical markers LHX6.", [("LHX6", "negative", ("LHX6",))]),
        ("It does not express CD79a.", [("CD79a", "negative", ("CD79A",))]),
        ("It expresses GAD1; PVALB is in its name.", [("GAD1", "positive", ("GAD1",))]),
        (
            "It expresses GAD1, but lacks SST.",
            [("GAD1", "positive", ("GAD1",)), ("SST", "negative", ("SST",))],
        ),
        ("PAX6-expressing cells", [("PAX6", "positive", ("PAX6",))]),
        ("It has high levels of DNA, is low in fat and BCR-negative.", [("BCR", "negative", ())]),
        ("A T cell of the lung.", []),
    ],
)
def test_what_a_definition_says(definition, wanted):
    assert _found(definition) == wanted


def test_the_name_speaks_first():
    found = _found("It was CD4-negative before.", name="CD4-positive, alpha-beta T cell")
    assert found == [("CD4", "positive", ("CD4",))]


@pytest.mark.parametrize(
    ("term_id", "wanted"),
    [
        ("CL:0002396", {"CD14": False, "CD16": True}),
        ("CL:0000860", {"CCR2": True, "CD3": False, "CD19": False, "CD20": False}),
        ("CL:0000625", {"CD8": True}),
        ("CL:0000236", {}),
    ],
)
def test_terms_of_the_ontology(term_id, wanted):
    markers = term_markers(Ontology.bundled().terms[term_id])
    assert {each.name: each.is_present for each in markers} == wanted


def test_surface_names_are_current_symbols():
    known = set(GeneTable.bundled().symbols)
    unknown = {gene for genes in _surface_names().values() for gene in genes} - known
    assert not unknown
    assert _surface_names()["cd16"] == ("FCGR3A", "FCGR3B")
