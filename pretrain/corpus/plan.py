"""An unfinished build: what it is to do, and the files by which it goes on where it stopped."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from langcell.runtime.digest import sha256_of
from langcell.runtime.output_file import replaced_file
from langcell.tokens.token_corpus import MANIFEST, Manifest
from pretrain.corpus.catalog import CATALOG, Catalog, given_vocabulary
from pretrain.corpus.inputs import CorpusInput
from pretrain.corpus.options import BuildOptions

WORK = ".build"
PIECE_CELLS = 32768  # tokenised and sorted in memory at once
_PIECES_PER_TASK = 4  # for which an input is opened once
_LEAST_SAMPLE = 1000


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
    """A build in a folder.

    Attributes
    ----------
    folder
        Where the corpus goes; the work in progress is in `.build` inside it.
    options
        How it is built.
    inputs
        What of, in order.
    digests
        sha256 of the files that options name.
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
        """Cells of each input whose values enter the medians; 0 where medians are given."""
        if self.options.genes or self.options.token_dictionary:
            return 0
        return max(_LEAST_SAMPLE, self.options.median_cells // len(self.inputs))

    def survey(self, source: int) -> Path:
        """Return where the survey of an input is."""
        return self.work / f"survey-{source:05}.npz"

    def forget_if_idle(self) -> None:
        """Remove a build that cannot go on, and the folder if it holds nothing else.

        No input of it was read, or all were and made no catalog.
        """
        n_read = sum(1 for _ in self.work.glob("survey-*.npz"))
        if 0 < n_read < len(self.inputs) or (self.work / CATALOG).is_file():
            return
        shutil.rmtree(self.work)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def run(self, source: int, piece: int) -> Path:
        """Return where a tokenised piece is; its tokens lie beside it (`Run`)."""
        return self.work / f"run-{source:05}-{piece:05}.safetensors"

    def error(self, source: int) -> Path:
        """Return where it stands why an input could not be read to its end."""
        return self.work / f"error-{source:05}.txt"

    def shard(self, number: int) -> Path:
        """Return where a shard goes."""
        return self.folder / f"shard-{number:05}.safetensors"

    def tasks(self, catalog: Catalog) -> Iterator[Task]:
        """Yield the work on all inputs, done or not."""
        for source, size in enumerate(catalog.inputs):
            pieces = self.pieces(catalog, source)
            # A matrix that is stored by gene is copied at each opening: open it once.
            step = len(pieces) if size.is_by_gene else _PIECES_PER_TASK
            for first in range(0, len(pieces), max(1, step)):
                yield Task(source=source, pieces=tuple(pieces[first : first + step]))

    def pieces(self, catalog: Catalog, source: int) -> list[Piece]:
        """Return the pieces of an input; none of one that cannot be read."""
        n_cells = catalog.inputs[source].n_cells
        starts = range(0, n_cells, PIECE_CELLS)
        return [
            Piece(number=number, start=start, stop=min(start + PIECE_CELLS, n_cells))
            for number, start in enumerate(starts)
        ]


def begin_plan(
    folder: Path, inputs: Sequence[CorpusInput], options: BuildOptions, *, overwrite: bool
) -> Plan:
    """Begin a build in a folder, or go on with the one that is there.

    Raises
    ------
    FileExistsError
        If the folder holds a whole corpus, or files that are no corpus.
    ValueError
        If it holds a build of other inputs or options, or options do not fit the inputs.
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
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if there == values:  # also where it was stopped after the manifest, before its work was removed
        return plan
    if (folder / MANIFEST).exists():
        raise FileExistsError(
            f"{folder} holds a corpus already; choose another --out or replace it with --overwrite"
        )
    if there is not None:
        # What stopped a build may be left out by its next start.
        leaves_out = {**there, "options": {**there["options"], "skip_bad": True}}
        _refuse_other(leaves_out if options.skip_bad else there, values, folder)
    try:
        plan.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write {folder}: {error.strerror}") from error
    with replaced_file(path) as part:
        part.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return plan


def read_plan(folder: Path) -> Plan:
    """Read the plan of the build in a folder; a process reads it once.

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
    """Read the catalog of the build in a folder; a process reads it once."""
    return _read_catalog(folder, stamp(folder / WORK / CATALOG))


def stamp(path: Path) -> tuple[int, int]:
    """Return what tells a file from one that takes its place: its size and last change."""
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
            what = "is a folder" if Path(path).is_dir() else "is not there"
            raise ValueError(f"--{name.replace('_', '-')} must name a file, and {path} {what}")


def _check_genes(inputs: Sequence[CorpusInput], options: BuildOptions) -> None:
    if bool(options.token_dictionary) != bool(options.gene_medians) and not options.genes:
        raise ValueError(
            "--token-dictionary and --gene-medians go together (or --genes gives the medians)"
        )
    tokenised = [each.path for each in inputs if each.kind == "tokens"]
    if tokenised and not (options.genes or options.token_dictionary):
        raise ValueError(
            f"{tokenised[0]} holds tokens, not counts: name the genes behind them with"
            " --token-dictionary and --gene-medians, or with --genes"
        )
    _check_named_files(options)
    given_vocabulary(options)  # reads the files, or says what is wrong with them


def _check_folder(folder: Path) -> None:
    """Raise if a folder holds what is not ours: a build replaces files by their names."""
    if not folder.exists() or (folder / WORK / "plan.json").is_file():
        return
    if (folder / MANIFEST).is_file():
        Manifest.read(folder)  # which says what is wrong with one that is not ours
    elif not folder.is_dir():
        raise NotADirectoryError(f"cannot write {folder}: it is a file; --out names a folder")
    elif any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no corpus; give a new folder")


def _refuse_other(there: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Raise if the build that is there is another one; name the first difference."""
    if there == wanted:
        return
    begun_with = there["options"]
    other = [name for name, value in wanted["options"].items() if begun_with.get(name) != value]
    if other:
        name = other[0]
        found = f"{name}={begun_with.get(name)!r}, not {wanted['options'][name]!r}"
    elif there["digests"] != wanted["digests"]:
        found = "other contents of a file of --genes, --token-dictionary or --gene-medians"
    else:
        found = f"other inputs ({_difference(there['inputs'], wanted['inputs'])})"
    raise ValueError(
        f"{folder} holds an unfinished build with {found}; give the command it was begun with, or"
        " start anew with --overwrite"
    )


def _difference(there: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str:
    """Say of one input how the given ones differ from those that a build was begun with."""
    began_with, given = ({each["path"] for each in inputs} for inputs in (there, wanted))
    new = [each["path"] for each in wanted if each["path"] not in began_with]
    missing = [each["path"] for each in there if each["path"] not in given]
    changed = [each["path"] for each in wanted if each not in there]
    if new:
        return f"{new[0]} is new"
    if missing:  # before changes, as the others may have other names without it
        return f"{missing[0]} is missing now"
    return f"{changed[0]} has changed" if changed else "the same in another order"


def _clear(folder: Path) -> None:
    """Remove a corpus and the work on one, each record before what it vouches for.

    So that nothing looks whole, and the next start goes on, wherever this is stopped.
    """
    if not folder.is_dir():
        return
    ours = [MANIFEST, "genes.tsv", "descriptions.tsv", "measured.safetensors", "report.*"]
    records = ["shard-*.json", "layout.json", CATALOG, "run-?????-?????.safetensors"]
    work = [f"{WORK}/{name}" for name in (*records, "[!p]*")]  # all but the plan
    for pattern in (*ours, *work, "shard-*.safetensors", f"{WORK}/*"):
        for path in folder.glob(pattern):
            path.unlink()
