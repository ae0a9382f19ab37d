"""The `langcell` command: one entry point that finds its sub-commands by entry point."""

import os
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import typer

from langcell.version import __version__

COMMAND_GROUP = "langcell.commands"

app = typer.Typer(
    name="langcell",
    help="Name, embed and search single cells through the Cell Ontology.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"langcell {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def _register_commands() -> None:
    """Add what every installed package registered under `langcell.commands`."""
    for entry in sorted(entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


def _fail(message: str, status: int) -> NoReturn:
    print(f"langcell: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    """Run the command line; every failure is one line on stderr and a non-zero status.

    Set LANGCELL_DEBUG=1 to see the traceback instead.
    """
    _register_commands()
    if os.environ.get("LANGCELL_DEBUG"):
        app()
        return
    try:
        app()
    except KeyboardInterrupt:
        _fail("stopped by the user; nothing was written", 130)
    except (ValueError, KeyError, OSError, ImportError) as error:
        _fail(str(error.args[0] if isinstance(error, KeyError) else error), 1)
    except Exception as error:  # noqa: BLE001  the border: a user gets a line, never a traceback
        _fail(
            f"unexpected {type(error).__name__}: {error} (run again with LANGCELL_DEBUG=1 for the traceback)",
            1,
        )
