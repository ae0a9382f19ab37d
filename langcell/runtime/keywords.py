"""Plain keywords of public functions, and the option dataclasses behind them."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Options = TypeVar("Options")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function say of an unknown keyword what was meant, or where it belongs."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"{function.__name__}() has no keyword {name!r}{_advice(name, list(known))}"
                )
        return function(*args, **kwargs)

    return checked


def _advice(name: str, known: list[str]) -> str:
    """Return the function that takes a keyword, or the keyword that it resembles."""
    takers = [
        f"langcell.{each}()"
        for each, parameters in _public_parameters().items()
        if name in parameters
    ]
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
        return f"; did you mean {near[0]!r}?"
    if takers:
        return f"; it belongs to {' or '.join(takers[:3])}"
    return f"; it has {', '.join(known)}"


def _public_parameters() -> dict[str, Mapping[str, inspect.Parameter]]:
    """Return the parameters of every function of the public face, by its name."""
    face = import_module("langcell")
    functions = {name: getattr(face, name) for name in dir(face)}
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
        Values by name; names that are no field are passed over, and fields that are no name keep
        their defaults.

    Raises
    ------
    ValueError
        If both are given.
    """
    given = {each.name: keywords[each.name] for each in fields(kind) if each.name in keywords}  # type: ignore[arg-type]
    if options is None:
        return kind(**given)
    defaults = {
        each.name: each.default
        for each in fields(kind)  # type: ignore[arg-type]
        if each.default is not MISSING
    }
    for name, value in given.items():
        if name in defaults and value is not defaults[name] and value != defaults[name]:
            raise ValueError(
                f"{name} is given beside options, which hold it too; put it into "
                f"{kind.__name__}({name}=...)"
            )
    return options
