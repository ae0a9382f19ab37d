"""Deletion of the genes behind a call after back-off."""

import numpy as np
import pytest

from benchmarks.accuracy.call_evidence import METHODS, BroadCalls, K
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.evidence.attribution import gene_effects

T = "CL:0000084"


@pytest.fixture(scope="module")
def calls(tiny_bag):
    return BroadCalls(LangCell.from_pretrained(str(tiny_bag)), Ontology.bundled())


def test_drops_are_those_of_the_mass_below_the_call(calls):
    ontology = Ontology.bundled()
    tokens = np.random.default_rng(0).permutation(400)[:60] + 2
    drops = calls.delete(tokens, T, np.random.default_rng(1))
    assert drops.index.tolist() == list(METHODS) and drops.columns.tolist() == list(K)
    ids = calls._candidates.ids
    below = np.array([each == T or T in ontology.ancestors(each) for each in ids])
    (whole,) = calls.probabilities([tokens])
    assert whole.sum() == pytest.approx(1, abs=1e-5)
    held = whole * below
    direction = (held / held.sum() @ calls._features).astype(np.float32)
    (effects,) = gene_effects(calls.model, [tokens], [direction[None]])
    ways = {
        "candidates below": np.argsort(-effects[:, 0], kind="stable"),
        "random": np.random.default_rng(1).permutation(32),  # of the genes that the model reads
    }
    for method, way in ways.items():
        cut = calls.probabilities([np.delete(tokens, way[:k]) for k in K])
        wanted = [np.log(held.sum() / each[below].sum()) for each in cut]
        assert drops.loc[method].tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_cell_that_nothing_is_sure_for_has_no_call(calls):
    tokens = np.random.default_rng(0).permutation(400)[:60] + 2
    assert calls.call(tokens) == "", "random weights, and no calibration"
