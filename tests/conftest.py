"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REASON = "shared data not found (set LANGCELL_SHARED to its folder)"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared corpus, ontology and parity vectors; skips where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("LANGCELL_SHARED", root.parent / "shared"))
    if not (folder / "corpus").is_dir():
        # A worktree or clone elsewhere may not have the folder beside it.
        pytest.skip(REASON)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run for want of the shared data."""
    skipped = terminalreporter.stats.get("skipped", [])
    n_skipped = sum(REASON in str(report.longrepr) for report in skipped)
    terminalreporter.write_line(f"{n_skipped} tests skipped for want of the shared data")
