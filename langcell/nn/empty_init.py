"""Build modules without initialising weights that a checkpoint replaces right after."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialisation(TorchFunctionMode):
    """Skip every function of torch.nn.init."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def skip_init() -> Iterator[None]:
    """Build modules on the meta device, without initialisation, inside the `with` block.

    The meta device alone is not enough: random initialisation there imports torch's compiler, which
    takes as long as importing torch itself.
    """
    with torch.device("meta"), _NoInitialisation():
        yield
