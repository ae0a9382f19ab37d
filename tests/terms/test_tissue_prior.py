"""What studies found in tissues, and the log-prior that comes of it."""

import math
from pathlib import Path

import numpy as np
import pytest

from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from ontology.tissue_facts import TissueFacts, bundled_facts
from ontology.tissue_prior import HIGHEST, LOWEST, TissuePrior, rules_out
from ontology.tissues import TissueMap

BLOOD, LUNG, COLON, SIGMOID = "UBERON:0000178", "UBERON:0002048", "UBERON:0001155", "UBERON:0001159"
MACROPHAGE, MONOCYTE, CLASSICAL, NEURON = "CL:0000235", "CL:0000576", "CL:0000860", "CL:0000540"
HEPATOCYTE, ALVEOLAR, T_CELL = "CL:0000182", "CL:0000583", "CL:0000084"


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology.bundled()


@pytest.fixture(scope="module")
def prior(ontology: Ontology) -> TissuePrior:
    return TissuePrior(ontology)


def _facts(ontology: Ontology, *rows: tuple[str, str, str]) -> TissueFacts:
    facts: dict[tuple[str, str], frozenset[str]] = {}
    for tissue, cell_type, studies in rows:
        facts[tissue, cell_type] = frozenset(studies.split())
    return TissueFacts(ontology, facts=facts)


def test_facts_are_closed_over_both_ontologies(ontology: Ontology) -> None:
    facts = _facts(
        ontology, (SIGMOID, CLASSICAL, "a b"), (COLON, T_CELL, "b c"), (LUNG, NEURON, "d")
    )
    colon = facts.n_studies(frozenset([COLON]))
    index = ontology.index
    assert colon[index[CLASSICAL]] == 2, "seen in a part of the colon"
    assert colon[index[MONOCYTE]] == 2 and colon[index["CL:0000000"]] == 3, "and their ancestors"
    assert colon[index[T_CELL]] == 2 and colon[index[NEURON]] == 0
    assert facts.n_studies(frozenset([SIGMOID]))[index[T_CELL]] == 0, "not the other way"
    both = facts.n_studies(frozenset([COLON, LUNG]))
    assert both[index["CL:0000000"]] == 4


def test_lift_is_that_of_the_formula(tmp_path: Path) -> None:
    path = tmp_path / "small.obo"
    terms = ["CL:0000000", "CL:1", "CL:2", "CL:3"]
    parents = {"CL:1": "CL:0000000", "CL:2": "CL:1", "CL:3": "CL:1"}
    path.write_text(
        "format-version: 1.2\nontology: cl\n\n"
        + "\n".join(
            f"[Term]\nid: {each}\nname: {each}\n"
            + (f"is_a: {parents[each]}\n" if each in parents else "")
            for each in terms
        )
    )
    small = Ontology.from_obo(path)
    facts = _facts(small, (BLOOD, "CL:2", "a b c"), (LUNG, "CL:1", "d"), (LUNG, "CL:3", "e f"))
    lift = dict(zip(small.ids, facts.log_lift(frozenset([BLOOD])), strict=True))
    # All six surveys found CL:1, three of blood; three found CL:2, two CL:3.
    assert lift["CL:0000000"] == 0
    assert lift["CL:1"] == pytest.approx(math.log((3 + 2) / (3 * 6 / 6 + 2)))
    assert lift["CL:2"] == pytest.approx(lift["CL:1"] + math.log((3 + 2) / (3 * 3 / 6 + 2)))
    assert lift["CL:3"] == pytest.approx(lift["CL:1"] + math.log((0 + 2) / (3 * 2 / 6 + 2)))


def test_without_facts_nothing_is_known(ontology: Ontology) -> None:
    assert not TissueFacts(ontology, facts={}).log_lift(frozenset([BLOOD])).any()
    somewhere = _facts(ontology, (LUNG, T_CELL, "a"))
    assert not somewhere.log_lift(frozenset([BLOOD])).any(), "no study of blood, so no absence"


def test_bundled_facts_are_current_and_of_the_training_files(ontology: Ontology) -> None:
    anatomy = Ontology.bundled("UBERON")
    facts = bundled_facts()
    assert len(facts) > 1000
    assert all(tissue in anatomy.index and term in ontology.index for tissue, term in facts)
    studies = {name for each in facts.values() for name in each}
    held_out = ("kang", "darmanis", "wu2021", "braun", "gse141445", "baron")
    assert not [name for name in studies if any(each in name.lower() for each in held_out)]


def test_the_table_is_what_its_script_makes(shared: Path) -> None:
    from scripts.make_tissue_table import read_facts

    made = {pair: frozenset(studies) for pair, studies in read_facts(shared / "corpus").items()}
    assert made == bundled_facts()


def test_blood_demotes_what_lives_in_tissues(prior: TissuePrior) -> None:
    terms = [MACROPHAGE, MONOCYTE, CLASSICAL, NEURON, HEPATOCYTE, T_CELL, ""]
    known = dict(zip(terms, prior.log_prior(BLOOD, terms), strict=True))
    assert known[MACROPHAGE] < -0.5 < 0 < known[T_CELL] <= known[MONOCYTE] <= known[CLASSICAL]
    assert known[NEURON] < -1 and known[HEPATOCYTE] == LOWEST and known[""] == 0
    out = rules_out(np.array(list(known.values())))
    assert out.tolist() == [True, False, False, True, True, False, False]


def test_bounds_and_places(ontology: Ontology, prior: TissuePrior) -> None:
    candidates = all_cell_types(ontology)
    lung = prior.log_prior(LUNG, candidates)
    assert lung.min() == LOWEST and lung.max() == HIGHEST
    known = dict(zip(candidates, lung, strict=True))
    assert known[HEPATOCYTE] == LOWEST and known[ALVEOLAR] >= 0 and known[MACROPHAGE] > -0.1
    tendon = prior.log_prior("UBERON:0000043", candidates)
    assert not tendon.any(), "is in no one organ, and no study looked there"


def test_a_study_outweighs_the_words_of_a_definition(ontology: Ontology) -> None:
    silent = TissuePrior(ontology, facts=TissueFacts(ontology, facts={}))
    assert silent.log_prior(LUNG, [HEPATOCYTE])[0] == LOWEST
    seen = TissuePrior(ontology, facts=_facts(ontology, (LUNG, HEPATOCYTE, "a")))
    assert seen.log_prior(LUNG, [HEPATOCYTE])[0] >= 0


def test_relations_of_an_obo_file_take_the_place_of_words(ontology: Ontology, shared: Path) -> None:
    release = Ontology.from_obo(shared / "ontology" / "cl-2024-04-05.obo.gz")
    silent = TissueFacts(ontology, facts={})
    related = TissuePrior(ontology, TissueMap(release), silent)
    words = TissuePrior(ontology, facts=silent)
    candidates = all_cell_types(ontology)
    assert related.log_prior(LUNG, [HEPATOCYTE, ALVEOLAR]).tolist() == [LOWEST, 0]
    new = [each for each in candidates if release.current(each) is None]
    assert new and not related.log_prior(LUNG, new).any(), "terms that the release lacks"
    assert (related.log_prior(LUNG, candidates) != words.log_prior(LUNG, candidates)).any()
