import doctest
from importlib import import_module

import pytest

import langcell
import ontology
import pretrain
import zeroshot

MODULES = (
    "benchmarks.scoring.selective",
    "langcell.runtime.device",
    "langcell.nn.metrics",
    "zeroshot.decide.assignment",
    "zeroshot.confidence.term_tree",
    "zeroshot.confidence.calibration",
    "zeroshot.labels.candidates",
    "zeroshot.labels.comparison",
    "zeroshot.decide.cluster_consensus",
    "zeroshot.decide.options",
    "zeroshot.fit.fit_donor_head",
    "zeroshot.fit.donor_split",
    "zeroshot.scores.label_index",
    "zeroshot.commands.inputs",
    "zeroshot.confidence.out_of_distribution",
    "zeroshot.decide.puzzles",
    "zeroshot.confidence.reliability",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_documentation(name):
    outcome = doctest.testmod(import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0


def test_exported_names_are_there():
    for package in (langcell, zeroshot, ontology, pretrain):
        for name in dir(package):
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="attribute '?nothing"):
            _ = package.nothing


def test_one_import_reaches_the_public_names_of_every_package():
    for package in (zeroshot, ontology, pretrain):
        for name in set(package.__all__) - {"plots", "write_export", "write_report"}:
            assert getattr(langcell, name) is getattr(package, name)
    assert langcell.pl.umap is zeroshot.plots.umap
    assert langcell.report is zeroshot.write_report
    assert langcell.export is zeroshot.write_export
