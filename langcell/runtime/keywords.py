"""Plain keywords of public functions, and the option dataclasses behind them."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Options = TypeVar("Options")
_BY_COMMANDS = "command"  # a field that commands fill in and no user


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function explain an unknown keyword, and refuse one beside `options`.

    Raises
    ------
    TypeError
        If a keyword is unknown: with the keyword that was meant, or the function that has it.
    ValueError
        If a keyword is given that `options` holds too.
    """
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"{checked.__name__}() has no keyword {name!r}{_advice(name, list(known))}"
                )
        _check_given_once(kwargs)
        return function(*args, **kwargs)

    return checked


def public_as(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Do what `public` does, for a function that users know by another name."""

    def named(function: Callable[P, R]) -> Callable[P, R]:
        checked = public(function)
        checked.__name__ = name
        return checked

    return named


def _check_given_once(keywords: Mapping[str, Any]) -> None:
    options = keywords.get("options")
    if not is_dataclass(options):
        return
    for each in fields(options):
        if each.name in keywords and each.name != _BY_COMMANDS:
            raise ValueError(
                f"{each.name} is given beside options, which hold it too; put it into "
                f"{type(options).__name__}({each.name}=...)"
            )


def _advice(name: str, known: list[str]) -> str:
    """Return the keyword that a name resembles, or the function that takes it."""
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
        return f"; did you mean {near[0]!r}?"
    takers = [each for each, parameters in _public_parameters().items() if name in parameters]
    if takers:
        return f"; it belongs to {' or '.join(takers[:3])}"
    return f"; it has {', '.join(known)}"


def _public_parameters() -> dict[str, Mapping[str, inspect.Parameter]]:
    """Return the parameters of every function that works on cells, by its public name."""
    face, cells = import_module("langcell"), import_module("zeroshot")
    functions = {
        f"langcell.{name}()": getattr(face, name)
        for name in dir(face)
        # Pretraining brings Lightning, which takes seconds to import.
        if name not in import_module("pretrain").__all__
    }
    functions |= {
        f"langcell.pl.{name}()": getattr(cells.plots, name) for name in cells.plots.__all__
    }
    return {
        name: inspect.signature(each).parameters
        for name, each in functions.items()
        if inspect.isfunction(each)
    }


def options_from(
    kind: type[Options], options: Options | None, keywords: Mapping[str, Any]
) -> Options:
    """Return options as given whole, or made of the keywords of a function.

    Parameters
    ----------
    kind
        Dataclass of the options.
    options
        Given whole; None where the keywords say all.
    keywords
        Values by name; names that are no field are ignored, and fields without a name keep their
        defaults.

    Raises
    ------
    TypeError
        If the options are of another kind.
    """
    if options is None:
        names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: keywords[name] for name in names if name in keywords})
    if not isinstance(options, kind):
        raise TypeError(f"options must be {kind.__name__}, got {type(options).__name__}")
    return options


def as_list(given: Any) -> list[str]:
    """Return words as a list: a string is one, or several with semicolons; never its letters.

    >>> as_list("NK cell"), as_list("0; 1"), as_list(3), as_list(("a", "b;c")), as_list(None)
    (['NK cell'], ['0', '1'], ['3'], ['a', 'b;c'], [])
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [word.strip() for word in given.split(";") if word.strip()]
    if hasattr(given, "__iter__"):
        return [str(each) for each in given]
    return [str(given)]


def as_texts(given: str | Sequence[str]) -> list[str]:
    """Return texts as a list: a string is one text, semicolons and all."""
    return [given] if isinstance(given, str) else list(given)
