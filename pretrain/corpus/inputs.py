"""Find the inputs of a corpus, with their kinds and names."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Literal

from pretrain.corpus.hf_inputs import count_rows, dataset_folders, is_dataset
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.soma_inputs import is_soma, soma_rows

Kind = Literal["counts", "tokens", "soma"]
_SUFFIXES = (".h5ad", ".h5")
# Rows per slice of a large dataset or experiment; each slice is an input of its own, to bound the
# memory per input.
_SLICE_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CorpusInput:
    """One input of a corpus.

    Attributes
    ----------
    kind
        Counts in a file, tokenised cells, or a SOMA experiment.
    path
        File, folder or URI.
    name
        Unique name in the corpus.
    start, stop
        Rows of a slice of a larger input; both 0 for the whole input.
    stamp
        Size in bytes and modification time of a file, to detect changes.
    """

    kind: Kind
    path: str
    name: str
    start: int = 0
    stop: int = 0
    stamp: tuple[int, int] = (0, 0)


def find_inputs(given: Sequence[str], options: BuildOptions) -> list[CorpusInput]:
    """Return the inputs that match paths, globs and URIs, in order.

    A folder that is not an input itself is searched recursively.

    Raises
    ------
    FileNotFoundError, ValueError
        If a name matches nothing, or an input is given twice.
    """
    found = [each for name in given for each in _expand(name)]
    if not found:
        raise ValueError("no inputs: pass files, folders, globs or URIs")
    twice = [path for path, n in Counter(map(_identity, found)).items() if n > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    names = _names(found)
    return [
        each
        for path, name in zip(found, names, strict=True)
        for each in _inputs(path, name, options)
    ]


def _expand(name: str) -> Iterator[str]:
    if is_soma(name):
        yield name
        return
    paths = (
        [Path(name)]
        if Path(name).exists()
        else [Path(each) for each in sorted(glob(name, recursive=True))]
    )
    if not paths:
        raise FileNotFoundError(f"{name}: no such file or folder, and no match for a glob")
    for path in paths:
        inside = list(_walk(path))
        if not inside:
            raise ValueError(
                f"{path}: it contains no input; wanted .h5ad, .h5, zarr, 10x mtx folders, folders of a"
                " Hugging Face dataset, or SOMA experiments"
            )
        yield from inside


def _walk(path: Path) -> Iterator[str]:
    if not path.is_dir() or _is_counts_folder(path) or is_soma(str(path)):
        yield str(path)
    elif is_dataset(path):
        yield from map(str, dataset_folders(path))
    else:
        for each in sorted(path.iterdir()):
            if not each.name.startswith(".") and (each.is_dir() or each.suffix in _SUFFIXES):
                yield from _walk(each)


def _is_counts_folder(path: Path) -> bool:
    is_zarr = any((path / name).exists() for name in (".zgroup", "zarr.json"))
    return is_zarr or any(path.glob("*matrix.mtx")) or any(path.glob("*matrix.mtx.gz"))


def _identity(path: str) -> str:
    return path if "://" in path or path.startswith("census:") else str(Path(path).resolve())


def _names(paths: Sequence[str]) -> list[str]:
    """Name each path by its stem, prefixed with as many parent folders as make it unique."""
    parts = [[*Path(path).parts[:-1], Path(path).stem] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _inputs(path: str, name: str, options: BuildOptions) -> Iterator[CorpusInput]:
    if is_soma(path):
        yield from _slices("soma", path, name, soma_rows(path, options))
    elif is_dataset(Path(path)):
        yield from _slices("tokens", path, name, (0, count_rows(Path(path))))
    else:
        status = Path(path).stat()
        stamp = (0, 0) if Path(path).is_dir() else (status.st_size, status.st_mtime_ns)
        yield CorpusInput(kind="counts", path=path, name=name, stamp=stamp)


def _slices(kind: Kind, path: str, name: str, rows: tuple[int, int]) -> Iterator[CorpusInput]:
    first, last = rows
    if first == last:
        raise ValueError(f"{path}: it has no cells")
    for start in range(first, last, _SLICE_ROWS):
        stop = min(start + _SLICE_ROWS, last)
        part = name if last - first <= _SLICE_ROWS else f"{name}[{start}:{stop}]"
        yield CorpusInput(kind=kind, path=path, name=part, start=start, stop=stop)
