"""The files that one command annotates, and where the results of each go."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_SUFFIXES = (".h5ad", ".h5", ".zarr")
_RESULT = ".langcell"  # before the suffix of an output
FORMATS = ("h5ad", "csv", "parquet")


def find_inputs(given: Sequence[Path]) -> list[Path]:
    """Return the inputs that paths name; a folder of inputs stands for all that lie in it.

    Outputs of earlier runs (*.langcell.h5ad) in a folder are no inputs.

    Raises
    ------
    ValueError
        If a folder has none, or an input is named twice.
    """
    found: list[Path] = []
    for path in given:
        if not _holds_inputs(path):
            found.append(path)  # whoever opens it says what is wrong with it
            continue
        inputs = [each for each in sorted(path.iterdir()) if _is_input(each)]
        if not inputs:
            raise ValueError(
                f"{path}: a folder without inputs; wanted {', '.join(_SUFFIXES)} or 10x mtx folders"
            )
        found += inputs
    twice = [path for path, n in Counter(each.resolve() for each in found).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return found


def _holds_inputs(path: Path) -> bool:
    return path.is_dir() and not _is_tenx(path) and not _is_zarr(path)


def _is_input(path: Path) -> bool:
    if path.name.startswith(".") or path.stem.endswith(_RESULT):
        return False
    if path.is_dir():
        return _is_tenx(path) or _is_zarr(path)
    return path.suffix in _SUFFIXES


def _is_tenx(path: Path) -> bool:
    return any(path.glob("*matrix.mtx")) or any(path.glob("*matrix.mtx.gz"))


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in (".zgroup", "zarr.json"))


def name_outputs(inputs: Sequence[Path], folder: Path, *, form: str = "h5ad") -> list[Path]:
    """Return where the results of each input go, one name each.

    Inputs of one name get that of their folder before it, as 10x calls every folder the same.

    Raises
    ------
    ValueError
        If two have the same name even so.

    Examples
    --------
    >>> [str(path) for path in name_outputs([Path("/a/pbmc.h5ad")], Path("out"))]
    ['out/pbmc.langcell.h5ad']
    """
    stems = [each.resolve().stem for each in inputs]
    counts = Counter(stems)
    names = [
        f"{path.resolve().parent.name}_{stem}" if counts[stem] > 1 else stem
        for path, stem in zip(inputs, stems, strict=True)
    ]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        same = " and ".join(
            str(path) for path, name in zip(inputs, names, strict=True) if name == twice[0]
        )
        raise ValueError(f"{same} would both be written as {twice[0]}{_RESULT}.{form}; rename one")
    return [folder / f"{name}{_RESULT}.{form}" for name in names]
