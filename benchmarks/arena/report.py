"""Run a suite and write its results as JSON, Markdown and HTML."""

import warnings
from collections.abc import Callable

from benchmarks.arena.leaderboard import render_leaderboard
from benchmarks.arena.result_card import ResultCard, markdown, overview
from benchmarks.arena.run import run_suite
from benchmarks.arena.suites import Inputs, build_suite
from langcell.runtime.output_file import replaced_file
from ontology.graph import Ontology


def measure_and_write(
    name: str, inputs: Inputs, ontology: Ontology, *, log: Callable[[str], None]
) -> str:
    """Run a suite, write its results and return the overview to print.

    Parameters
    ----------
    name: quick or full
    log: called with a progress message

    Raises
    ------
    ValueError, OSError
        If the suite is unknown, or an input cannot be read.
    """
    with warnings.catch_warnings():
        # Warnings about small gene panels, and those of scanpy about tiny files.
        warnings.simplefilter("ignore")
        suite = build_suite(name, inputs, ontology)
        for line in suite.left_out:
            log(f"left out: {line}")
        results = run_suite(suite, inputs.folder, log)
    card = ResultCard.of_run(suite, results, ontology.title)
    card.write(inputs.folder / "results.json")
    for file, text in (
        ("results.md", markdown(card)),
        ("leaderboard.html", render_leaderboard(card)),
    ):
        with replaced_file(inputs.folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    written = "\n".join(
        f"wrote\t{inputs.folder / file}"
        for file in ("results.json", "results.md", "leaderboard.html")
    )
    return f"{overview(card)}\n{written}"
