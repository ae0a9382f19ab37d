"""Spelling of parameters in messages: flags on the command line, keywords in Python."""

import os
from typing import Any

# In the environment, so that processes that a command starts spell parameters as it does.
_VARIABLE = "LANGCELL_MESSAGES"
_FLAGS = "flags"


def spell_as_flags() -> None:
    """Spell parameters as command-line flags in all messages of this process and its children."""
    os.environ[_VARIABLE] = _FLAGS


def option(name: str, value: Any = None, *, flag: str | None = None) -> str:
    """Return a parameter as the reader of a message would type it.

    Parameters
    ----------
    name
        Keyword of the Python function.
    value
        Value to show with it; True shows the flag alone, None the name alone.
    flag
        Command-line flag, where it is not the name with dashes, such as "--genes".

    Examples
    --------
    >>> option("confidence"), option("allow_normalized", True), option("scoring", "official")
    ('confidence', 'allow_normalized=True', "scoring='official'")
    """
    if os.environ.get(_VARIABLE) != _FLAGS:
        return name if value is None else f"{name}={value!r}"
    flag = flag or f"--{name.replace('_', '-')}"
    return flag if value is None or value is True else f"{flag} {value}"
