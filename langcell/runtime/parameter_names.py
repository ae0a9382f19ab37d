"""Spell parameters in messages: as flags on the command line, as keywords in Python."""

from typing import Any

_on_command_line: list[bool] = [False]


def spell_as_flags() -> None:
    """Spell parameters as command-line flags in all messages of this process."""
    _on_command_line[0] = True


def option(name: str, value: Any = None, *, flag: str | None = None) -> str:
    """Return a parameter in the form that the reader of a message can type.

    Parameters
    ----------
    name
        Keyword of the Python function.
    value
        Value to show. True shows the flag alone on the command line, None the name alone.
    flag
        Command-line flag, where it is not the name with dashes, such as "--genes".

    Examples
    --------
    >>> option("confidence"), option("allow_normalized", True), option("scoring", "official")
    ('confidence', 'allow_normalized=True', "scoring='official'")
    """
    if not _on_command_line[0]:
        return name if value is None else f"{name}={value!r}"
    flag = flag or f"--{name.replace('_', '-')}"
    return flag if value is None or value is True else f"{flag} {value}"
