import subprocess
import sys

import pytest

from langcell.runtime.parameter_names import option, spell_as_flags


def test_python_reads_keywords():
    assert option("key_added") == "key_added"
    assert option("overwrite", True) == "overwrite=True"
    assert option("scoring", "official") == "scoring='official'"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setenv("LANGCELL_MESSAGES", "")  # so that it is put back
    spell_as_flags()


@pytest.mark.usefixtures("command")
def test_the_command_line_reads_flags():
    assert option("key_added") == "--key-added"
    assert option("overwrite", True) == "--overwrite"
    assert option("scoring", "official") == "--scoring official"
    assert option("n_genes", 5, flag="--genes") == "--genes 5"


@pytest.mark.usefixtures("command")
def test_processes_that_a_command_starts_read_flags_too():
    code = "from langcell.runtime.parameter_names import option; print(option('min_genes'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "--min-genes\n"
