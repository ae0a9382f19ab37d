import doctest
from importlib import import_module

import pytest

import zeroshot

MODULES = (
    "benchmarks.selective",
    "langcell.device",
    "langcell.metrics",
    "zeroshot.assignment",
    "zeroshot.backoff",
    "zeroshot.calibration",
    "zeroshot.candidates",
    "zeroshot.comparison",
    "zeroshot.cluster_consensus",
    "zeroshot.decode_options",
    "zeroshot.donor_fit",
    "zeroshot.donor_split",
    "zeroshot.index",
    "zeroshot.inputs",
    "zeroshot.ood",
    "zeroshot.puzzles",
    "zeroshot.reliability",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_documentation(name):
    outcome = doctest.testmod(import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0


def test_exported_names_are_there():
    assert set(zeroshot.__all__) == set(zeroshot._HOMES)
    for name in zeroshot.__all__:
        assert getattr(zeroshot, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zeroshot.nothing
