"""A share of a coarse label's probability passes to its subtypes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from zeroshot.labels.subtypes import Subtypes

T_CELL, CD4, CD8, NEURON = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000540"
IDS = (CD4, NEURON, T_CELL, CD8)


def dense(log_probabilities: np.ndarray, ids: tuple[str, ...], share: float) -> np.ndarray:
    """The slow and obvious way."""
    ontology = Ontology.bundled()
    probabilities = np.exp(log_probabilities.astype(np.float64))
    passed = probabilities.copy()
    for column, term_id in enumerate(ids):
        under = [i for i, other in enumerate(ids) if other in ontology.descendants(term_id)]
        held = probabilities[:, under].sum(axis=1)
        gives = np.where(held > 1e-6, share * probabilities[:, column], 0)
        passed[:, column] -= gives
        for i in under:
            passed[:, i] += gives * probabilities[:, i] / np.maximum(held, 1e-300)
    return passed


def test_a_quarter_passes_down_in_proportion() -> None:
    subtypes = Subtypes.among(IDS, Ontology.bundled())
    given_probabilities = np.log(np.array([[0.2, 0.3, 0.4, 0.1]], np.float32))
    passed = np.exp(subtypes.pass_down(given_probabilities, share=0.25))
    # T cell gives 0.1: two thirds to CD4, one third to CD8.
    np.testing.assert_allclose(passed, [[0.2 + 0.2 / 3, 0.3, 0.3, 0.1 + 0.1 / 3]], rtol=1e-6)


def test_a_label_keeps_what_no_subtype_can_take() -> None:
    subtypes = Subtypes.among(IDS, Ontology.bundled())
    logits = np.array([[-40.0, -3.0, -0.05, -40.0]], np.float32)
    np.testing.assert_allclose(subtypes.pass_down(logits, share=1.0), logits, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.99), st.floats(0.5, 20))
def test_it_equals_the_slow_way_and_keeps_the_sum(seed: int, share: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    ids = tuple(sorted(rng.choice(all_cell_types(Ontology.bundled()), 60, replace=False)))
    logits = scale * rng.normal(size=(3, len(ids)))
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    logits = logits.astype(np.float32)
    passed = np.exp(Subtypes.among(ids, Ontology.bundled()).pass_down(logits, share=share))
    np.testing.assert_allclose(passed, dense(logits, ids, share), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(passed.sum(axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("n_cells", [1, 127, 300])
def test_a_cell_does_not_depend_on_the_others(n_cells: int) -> None:
    logits = np.random.default_rng(0).normal(size=(300, len(IDS))).astype(np.float32)
    subtypes = Subtypes.among(IDS, Ontology.bundled())
    whole = subtypes.pass_down(logits)
    assert (subtypes.pass_down(logits[:n_cells]) == whole[:n_cells]).all()
