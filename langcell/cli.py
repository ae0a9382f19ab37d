"""The `langcell` command: one entry point that finds its sub-commands by entry point."""

import gc
import os
import signal
import sys
import warnings
from importlib.metadata import entry_points
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from langcell.runtime.version import __version__

COMMAND_GROUP = "langcell.commands"


class _StoppedError(Exception):
    """Ctrl-C, with what the command says of it; typer would lose the words."""


class _Root(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _StoppedError(str(stop)) from stop


app = typer.Typer(
    name="langcell",
    cls=_Root,
    help="Annotate, embed and search single cells through the Cell Ontology.",
    context_settings={"help_option_names": ["-h", "--help"]},
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
        try:
            command = entry.load()
        except ImportError as error:
            # One package that is broken must not take the others' commands with it.
            _warn(f"the command {entry.name!r} cannot be loaded: {error}")
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


def _warn(message: str) -> None:
    print(f"langcell: warning: {' '.join(message.split())}", file=sys.stderr)


def _fail(message: str, status: int) -> NoReturn:
    print(f"langcell: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _stop(message: str) -> NoReturn:
    """Say that a signal ended the command; the status is that of a shell."""
    number = _signals[0] if _signals else signal.SIGINT
    by = "the user" if number == signal.SIGINT else signal.Signals(number).name
    _fail(message or f"stopped by {by}; no unfinished output is left", 128 + number)


_shown: set[str] = set()
_signals: list[int] = []  # that ended this process


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Deprecations of dependencies are for their developers, not for users; and once is enough.
    if issubclass(category, UserWarning) and str(message) not in _shown:
        _shown.add(str(message))
        _warn(str(message))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave as Ctrl-C does, so that temporary files are removed."""
    _signals.append(number)
    raise KeyboardInterrupt


def _fail_usage(error: Any) -> NoReturn:
    """Say in a line what is wrong with the options; where there are none, say what there are."""
    context = getattr(error, "ctx", None)
    if context is not None and error.message == context.get_help():
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
    see = f"; see {context.command_path} --help" if context is not None else ""
    _fail(error.format_message().strip().rstrip(".") + see, error.exit_code)


def main() -> None:
    """Run the command line; every failure is one line on stderr and a non-zero status.

    Set LANGCELL_DEBUG=1 to see the traceback instead.
    """
    from langcell.runtime.parameter_names import spell_as_flags
    from langcell.runtime.threads import let_waiting_threads_sleep

    spell_as_flags()
    let_waiting_threads_sleep()
    # Importing and reading make few cycles: looking for them took a fifth of the start.
    gc.set_threshold(100_000, 50, 100)
    _register_commands()
    if os.environ.get("LANGCELL_DEBUG"):
        app()
        return
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(app(standalone_mode=False))
    except (_StoppedError, KeyboardInterrupt) as stop:
        _stop(str(stop))
    except (ValueError, KeyError, OSError, ImportError) as error:
        if _signals:  # C code that a signal met says that its arguments were wrong
            _stop("")
        _fail(str(error.args[0] if isinstance(error, KeyError) else error), 1)
    except Exception as error:  # noqa: BLE001  the border: a user gets a line, never a traceback
        if _signals:
            _stop("")
        if hasattr(error, "format_message"):  # typer's own; versions differ in where its class is
            _fail_usage(error)
        _fail(
            f"unexpected {type(error).__name__}: {error} (run again with LANGCELL_DEBUG=1 for the traceback)",
            1,
        )
