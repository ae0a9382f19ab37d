"""Which process of several this one is."""

import pytest

from langcell.runtime.processes import is_first_process, process_number


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, 0),
        ({"SLURM_PROCID": "3"}, 3),
        ({"SLURM_PROCID": "3", "LOCAL_RANK": "1"}, 1),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),
    ],
)
def test_launchers_say_it(monkeypatch, variables, number):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert process_number() == number and is_first_process() is (number == 0)
