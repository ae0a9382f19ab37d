"""Cells and words in one space: annotate, embed and search single cells.

>>> import langcell as lc
>>> lc.annotate(adata, tissue="pancreas")  # doctest: +SKIP
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import lazy_loader

from langcell.runtime.version import __version__ as __version__

_own, _, _NAMES = lazy_loader.attach_stub(__name__, str(Path(__file__).with_name("public.pyi")))
# Packages whose public names are reached from here too. By string: nothing of langcell imports
# upward, and a name is listed in its own package alone.
_PACKAGES = ("zeroshot", "ontology", "pretrain")
# Named here as scanpy and its users would: there `export`, `plots` and `report` are folders.
_RENAMED = {"export": "write_export", "pl": "plots", "report": "write_report"}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return _own(name)
    if name == "__all__":  # asked for by `from langcell import *`
        return __dir__()
    if not name.startswith("_") and name not in _RENAMED.values():
        for package in map(import_module, _PACKAGES):
            if _RENAMED.get(name, name) in package.__all__:
                return getattr(package, _RENAMED.get(name, name))
    raise AttributeError(f"module 'langcell' has no attribute {name!r}")


def __dir__() -> list[str]:
    upper = {name for package in _PACKAGES for name in import_module(package).__all__}
    return sorted({*_NAMES, *upper.difference(_RENAMED.values()), *_RENAMED, "__version__"})
