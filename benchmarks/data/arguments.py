"""Command-line options common to the benchmarks."""

import argparse
import sys
from pathlib import Path

from benchmarks.data.studies import LabelledFile, read_validation_files, shared_folder
from langcell.runtime.threads import set_threads


def make_parser(doc: str | None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with --threads and --shared.

    Parameters
    ----------
    doc: of the module, whose first line describes the command
    threads: default number of threads; None for all cores
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument(
        "--threads", type=int, default=threads, help=f"default: {threads or 'all cores'}"
    )
    parser.add_argument("--shared", type=Path, default=shared_folder(), help="folder with corpus/")
    return parser


def add_model(parser: argparse.ArgumentParser, default: str = "mini-fast") -> None:
    """Add --model, for a benchmark of one model."""
    parser.add_argument(
        "--model", default=default, help=f"bundled name, folder or hub id; default: {default}"
    )


def add_models(parser: argparse.ArgumentParser, default: str = "mini-fast") -> None:
    """Add a repeatable --model; `given.model` is None by default, and `default` describes that."""
    parser.add_argument(
        "--model",
        action="append",
        help=f"bundled name, folder or hub id; may be repeated; default: {default}",
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    given = parser.parse_args()
    set_threads(given.threads)
    return given


def validation_files(given: argparse.Namespace) -> list[LabelledFile]:
    """Read the labels of the validation files in --shared.

    Raises
    ------
    SystemExit
        With a one-line message, if there is no corpus.
    """
    try:
        return read_validation_files(given.shared / "corpus")
    except FileNotFoundError as error:
        sys.exit(str(error))
