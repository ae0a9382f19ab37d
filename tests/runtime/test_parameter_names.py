import pytest

from langcell.runtime import parameter_names
from langcell.runtime.parameter_names import option, spell_as_flags


def test_python_reads_keywords():
    assert option("key_added") == "key_added"
    assert option("overwrite", True) == "overwrite=True"
    assert option("scoring", "official") == "scoring='official'"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(parameter_names, "_on_command_line", [False])
    spell_as_flags()


@pytest.mark.usefixtures("command")
def test_the_command_line_reads_flags():
    assert option("key_added") == "--key-added"
    assert option("overwrite", True) == "--overwrite"
    assert option("scoring", "official") == "--scoring official"
    assert option("n_genes", 5, flag="--genes") == "--genes 5"
