"""Plan of an unfinished build, and the files from which it resumes."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from langcell.runtime.digest import sha256_of
from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option
from langcell.tokens.token_corpus import MANIFEST, Manifest
from pretrain.corpus.catalog import CATALOG, Catalog, given_vocabulary
from pretrain.corpus.inputs import CorpusInput
from pretrain.corpus.options import BuildOptions

WORK = ".build"
PIECE_CELLS = 32768  # tokenised and sorted in memory at once
_PIECES_PER_TASK = 4  # for each opening of an input
_MIN_SAMPLE = 1000


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive cells of one input, in the order of its survey."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """Pieces of one input that a worker tokenises."""

    source: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of a build in a folder.

    Attributes
    ----------
    folder
        Output folder; the work in progress is in its `.build`.
    options
        Options of the build.
    inputs
        Inputs, in order.
    digests
        SHA-256 of the files that options name.
    """

    folder: Path
    options: BuildOptions
    inputs: tuple[CorpusInput, ...]
    digests: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        """Folder of the work in progress."""
        return self.folder / WORK

    @property
    def sample_cells(self) -> int:
        """Cells per input sampled for the medians; 0 if medians are given."""
        if self.options.genes or self.options.token_dictionary:
            return 0
        return max(_MIN_SAMPLE, self.options.median_cells // len(self.inputs))

    def survey(self, source: int) -> Path:
        """Return the path of the survey of an input."""
        return self.work / f"survey-{source:05}.npz"

    def remove_if_idle(self) -> None:
        """Remove a build that has nothing to resume, and the folder if it is empty then.

        That is, no input was surveyed, or all were but no catalog was made.
        """
        n_read = sum(1 for _ in self.work.glob("survey-*.npz"))
        if 0 < n_read < len(self.inputs) or (self.work / CATALOG).is_file():
            return
        shutil.rmtree(self.work)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def run(self, source: int, piece: int) -> Path:
        """Return the path of a tokenised piece (`Run`)."""
        return self.work / f"run-{source:05}-{piece:05}.safetensors"

    def error(self, source: int) -> Path:
        """Return the path of the error of an input that could not be read."""
        return self.work / f"error-{source:05}.txt"

    def shard(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f"shard-{number:05}.safetensors"

    def tasks(self, catalog: Catalog) -> Iterator[Task]:
        """Yield the tasks of all inputs, done or not."""
        for source, size in enumerate(catalog.inputs):
            pieces = self.pieces(catalog, source)
            # A matrix stored by gene is copied at each opening, so open it only once.
            step = len(pieces) if size.is_by_gene else _PIECES_PER_TASK
            for first in range(0, len(pieces), max(1, step)):
                yield Task(source=source, pieces=tuple(pieces[first : first + step]))

    def pieces(self, catalog: Catalog, source: int) -> list[Piece]:
        """Return the pieces of an input; empty if it cannot be read."""
        n_cells = catalog.inputs[source].n_cells
        starts = range(0, n_cells, PIECE_CELLS)
        return [
            Piece(number=number, start=start, stop=min(start + PIECE_CELLS, n_cells))
            for number, start in enumerate(starts)
        ]


def begin_plan(
    folder: Path, inputs: Sequence[CorpusInput], options: BuildOptions, *, overwrite: bool
) -> Plan:
    """Start a build in a folder, or resume the one in it.

    Raises
    ------
    FileExistsError
        If the folder holds a finished corpus, or other files.
    ValueError
        If it holds a build with other inputs or options, or options do not fit the inputs.
    """
    _check_genes(inputs, options)
    named = (options.genes, options.token_dictionary, options.gene_medians)
    plan = Plan(
        folder=folder,
        options=options,
        inputs=tuple(inputs),
        digests=tuple(sha256_of(Path(each)) for each in named if each),
    )
    _check_folder(folder)
    if overwrite:
        _clear(folder)
    path = plan.work / "plan.json"
    values = _to_json(plan)
    existing = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if existing == values:  # also if it was stopped after the manifest, before its work was removed
        return plan
    if (folder / MANIFEST).exists():
        raise FileExistsError(
            f"{folder} holds a corpus already; choose another folder, or replace it with"
            f" {option('overwrite', True)}"
        )
    if existing is not None:
        # A build may be resumed with skip_bad after a bad input stopped it.
        leaves_out = {**existing, "options": {**existing["options"], "skip_bad": True}}
        _check_same_build(leaves_out if options.skip_bad else existing, values, folder)
    try:
        plan.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write {folder}: {error.strerror}") from error
    with replaced_file(path) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return plan


def read_plan(folder: Path) -> Plan:
    """Read the plan of the build in a folder, cached per process.

    Raises
    ------
    FileNotFoundError
        If there is no build.
    """
    path = folder / WORK / "plan.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no unfinished build of a corpus")
    return _read_plan(folder, stamp(path))


def read_catalog(folder: Path) -> Catalog:
    """Read the catalog of the build in a folder, cached per process."""
    return _read_catalog(folder, stamp(folder / WORK / CATALOG))


def stamp(path: Path) -> tuple[int, int]:
    """Return size and modification time of a file, to detect a replaced file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@cache
def _read_plan(folder: Path, stamp: tuple[int, int]) -> Plan:
    path = folder / WORK / "plan.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    return Plan(
        folder=folder,
        options=BuildOptions.from_json(values["options"]),
        inputs=tuple(
            CorpusInput(**{**each, "stamp": tuple(each["stamp"])}) for each in values["inputs"]
        ),
        digests=tuple(values["digests"]),
    )


@cache
def _read_catalog(folder: Path, stamp: tuple[int, int]) -> Catalog:
    return Catalog.read(folder / WORK)


def _to_json(plan: Plan) -> dict[str, Any]:
    inputs = [{**asdict(each), "stamp": list(each.stamp)} for each in plan.inputs]
    return {
        "options": plan.options.to_json(),
        "inputs": inputs,
        "digests": list(plan.digests),
    }


def _check_named_files(options: BuildOptions) -> None:
    for name in ("genes", "token_dictionary", "gene_medians"):
        path = getattr(options, name)
        if path and not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise ValueError(f"{option(name)} must name a file, but {path} {what}")


def _check_genes(inputs: Sequence[CorpusInput], options: BuildOptions) -> None:
    if bool(options.token_dictionary) != bool(options.gene_medians) and not options.genes:
        raise ValueError(
            f"{option('token_dictionary')} and {option('gene_medians')} go together (or"
            f" {option('genes')} gives the medians)"
        )
    tokenised = [each.path for each in inputs if each.kind == "tokens"]
    if tokenised and not (options.genes or options.token_dictionary):
        raise ValueError(
            f"{tokenised[0]} holds tokens, not counts: name their genes with"
            f" {option('token_dictionary')} and {option('gene_medians')}, or with {option('genes')}"
        )
    _check_named_files(options)
    given_vocabulary(options)  # raises if the files are invalid


def _check_folder(folder: Path) -> None:
    """Raise if a folder holds other files, which a build might overwrite."""
    if not folder.exists() or (folder / WORK / "plan.json").is_file():
        return
    if (folder / MANIFEST).is_file():
        Manifest.read(folder)  # raises if it is not a corpus
    elif not folder.is_dir():
        raise NotADirectoryError(f"cannot write {folder}: it is a file; pass a folder")
    elif any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no corpus; pass a new folder")


def _check_same_build(existing: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Raise if the folder holds another build; the message names the first difference."""
    if existing == wanted:
        return
    earlier = existing["options"]
    other = [name for name, value in wanted["options"].items() if earlier.get(name) != value]
    if other:
        name = other[0]
        found = f"{name}={earlier.get(name)!r}, not {wanted['options'][name]!r}"
    elif existing["digests"] != wanted["digests"]:
        found = (
            f"other contents of a file of {option('genes')}, {option('token_dictionary')} or"
            f" {option('gene_medians')}"
        )
    else:
        found = f"other inputs ({_difference(existing['inputs'], wanted['inputs'])})"
    raise ValueError(
        f"{folder} holds an unfinished build with {found}; resume it with its own inputs and options,"
        f" or start over with {option('overwrite', True)}"
    )


def _difference(existing: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str:
    """Describe the first input that differs from those of the build in the folder."""
    earlier, given = ({each["path"] for each in inputs} for inputs in (existing, wanted))
    new = [each["path"] for each in wanted if each["path"] not in earlier]
    missing = [each["path"] for each in existing if each["path"] not in given]
    changed = [each["path"] for each in wanted if each not in existing]
    if new:
        return f"{new[0]} is new"
    if missing:  # before changes, as it may affect the names of the others
        return f"{missing[0]} is missing now"
    return f"{changed[0]} has changed" if changed else "the same in another order"


def _clear(folder: Path) -> None:
    """Remove a corpus or a build, deleting each record before the files it describes.

    So an interrupted removal never leaves something that looks complete.
    """
    if not folder.is_dir():
        return
    ours = [MANIFEST, "genes.tsv", "descriptions.tsv", "measured.safetensors", "report.*"]
    records = ["shard-*.json", "layout.json", CATALOG, "run-?????-?????.safetensors"]
    work = [f"{WORK}/{name}" for name in (*records, "[!p]*")]  # all but the plan
    for pattern in (*ours, *work, "shard-*.safetensors", f"{WORK}/*"):
        for path in folder.glob(pattern):
            path.unlink()
