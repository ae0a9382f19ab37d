"""Merge tokenised pieces into shards: remove duplicates and shuffle all cells."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option
from langcell.runtime.version import __version__
from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.shard_file import write_shard, write_tensors
from langcell.tokens.token_corpus import (
    DESCRIPTIONS,
    GENES,
    MEASURED,
    CorpusFile,
    Manifest,
    ShardSize,
    file_entry,
    write_descriptions,
)
from pretrain.corpus.catalog import CATEGORIES, Catalog
from pretrain.corpus.plan import Plan, read_catalog, read_plan, stamp
from pretrain.corpus.survey import Survey, open_ontology
from pretrain.corpus.token_genes import token_genes
from pretrain.corpus.tokenised_pieces import Run

# Cells compared at once; cells whose content keys fall into different parts cannot be equal.
_COMPARED_AT_ONCE = 1 << 22
_LAYOUT, _DUPLICATES = "layout.json", "duplicates.npy"
_RUN_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Assignment of the cells of a build to shards.

    Attributes
    ----------
    runs
        (input, piece) of each run, in order.
    n_shards
        Number of shards; shard i gets the cells with keys in the i-th of n_shards equal ranges.
    n_cells
        Number of kept cells, without duplicates.
    duplicates
        Number of duplicates of each input.
    """

    runs: tuple[tuple[int, int], ...]
    n_shards: int
    n_cells: int
    duplicates: tuple[int, ...]


def plan_layout(plan: Plan, catalog: Catalog) -> Layout:
    """Find duplicates among all runs and choose the number of shards.

    Raises
    ------
    FileNotFoundError
        If pieces are not tokenised yet; the message names the input.
    """
    path = plan.work / _LAYOUT
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple((source, piece) for source, piece in values.pop("runs"))
        return Layout(runs=runs, **{**values, "duplicates": tuple(values["duplicates"])})
    runs = _runs(plan, catalog)
    sizes = [len(Run.open(plan.run(*each)).keys) for each in runs]
    found = np.empty(0, np.int64)
    if not plan.options.keep_duplicates:
        found = _find_duplicates(plan, runs, sum(sizes))
    with replaced_file(plan.work / _DUPLICATES) as part, part.open("wb") as file:
        np.save(file, found)
    sources = np.array([source for source, _ in runs], dtype=np.int64)
    n_cells = sum(sizes) - len(found)
    layout = Layout(
        runs=runs,
        n_shards=max(1, round(n_cells / plan.options.shard_cells)),
        n_cells=n_cells,
        duplicates=tuple(
            np.bincount(sources[found >> _RUN_BITS], minlength=len(plan.inputs)).tolist()
        ),
    )
    with replaced_file(path) as part:
        part.write_text(json.dumps(vars(layout)), encoding="utf-8")
    return layout


def make_shard(folder: Path, number: int) -> int:
    """Write a shard unless it is finished; return its number of cells."""
    plan = read_plan(folder)
    if (n_cells := _n_finished(plan, number)) is not None:
        return n_cells
    layout = _layout(folder, stamp(plan.work / _LAYOUT))
    try:
        cells = _cells_of_shard(plan, layout, number)
    except FileNotFoundError as error:
        # Another process has finished the shard and deleted the tokens.
        if (n_cells := _n_finished(plan, number)) is not None:
            return n_cells
        raise FileNotFoundError(f"{error}; start over with {option('overwrite', True)}") from error
    path = plan.shard(number)
    write_shard(path, cells)
    terms, studies = (cells.columns[name].tolist() for name in ("term", "study"))
    pairs = Counter(zip(terms, studies, strict=True))
    record = {
        "n_cells": cells.n_cells,
        "n_tokens": len(cells.tokens),
        "file": vars(file_entry(path)),
        "pairs": [[*pair, n] for pair, n in sorted(pairs.items())],
    }
    with replaced_file(_done(plan, number)) as part:
        part.write_text(json.dumps(record), encoding="utf-8")
    _delete_tokens(plan, layout, number)
    return cells.n_cells


def _cells_of_shard(plan: Plan, layout: Layout, number: int) -> PackedCells:
    duplicates = np.load(plan.work / _DUPLICATES, mmap_mode="r")
    parts, keys = [], []
    for order, each in enumerate(layout.runs):
        run = Run.open(plan.run(*each))
        start, stop = _key_range(run.keys, number, layout.n_shards)
        repeated = _duplicates_of(duplicates, order)
        for of_range in _overlapping(number, layout.n_shards, run.n_ranges):
            first, cells = run.cells(of_range)
            low = max(start, first)
            high = max(low, min(stop, first + cells.n_cells))
            kept = np.setdiff1d(np.arange(low, high), repeated, assume_unique=True)
            part = cells.slice(low - first, high - first)
            parts.append(part if len(kept) == high - low else part.take(kept - low))
            keys.append(run.keys[kept])
    return PackedCells.gathered(parts, np.argsort(np.concatenate(keys), kind="stable"))


def write_manifest(folder: Path) -> int:
    """Write the other files of the corpus, the manifest last; return the number of cells."""
    plan, catalog = read_plan(folder), read_catalog(folder)
    layout = _layout(folder, stamp(plan.work / _LAYOUT))
    with replaced_file(folder / GENES) as part:
        shutil.copyfile(plan.work / GENES, part)
    ontology = open_ontology(plan.options.ontology)
    write_descriptions(folder / DESCRIPTIONS, catalog.descriptions(ontology))
    write_tensors(
        folder / MEASURED, {"measured": np.packbits(_measured(plan, catalog, layout), axis=1)}
    )
    files = {name: file_entry(folder / name) for name in (GENES, DESCRIPTIONS, MEASURED)}
    shards, pairs = [], Counter[tuple[int, int]]()
    for number in range(layout.n_shards):
        record = json.loads(_done(plan, number).read_text(encoding="utf-8"))
        name = plan.shard(number).name
        files[name] = CorpusFile(**record["file"])
        shards.append(ShardSize(name=name, n_cells=record["n_cells"], n_tokens=record["n_tokens"]))
        for term, study, n in record["pairs"]:
            pairs[term, study] += n
    manifest = Manifest(
        max_genes=plan.options.max_genes,
        seed=plan.options.seed,
        shards=tuple(shards),
        files=files,
        categories={
            **{name: catalog.categories[name] for name in CATEGORIES},
            "file": tuple(each.name for each in plan.inputs),
        },
        pairs=tuple((term, study, n) for (term, study), n in sorted(pairs.items())),
        built={
            "version": __version__,
            "ontology": ontology.title,
            "options": plan.options.to_json(),
        },
    )
    manifest.write(folder)
    return manifest.n_cells


def _runs(plan: Plan, catalog: Catalog) -> tuple[tuple[int, int], ...]:
    runs = tuple(
        (source, piece.number)
        for source in range(len(plan.inputs))
        if not (catalog.inputs[source].error or plan.error(source).is_file())
        for piece in plan.pieces(catalog, source)
    )
    missing = sorted({source for source, piece in runs if not plan.run(source, piece).is_file()})
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(plan.inputs)} inputs are not tokenised yet, the first is"
            f" {plan.inputs[missing[0]].path}: run langcell corpus build again, for each of its parts"
        )
    return runs


def _find_duplicates(plan: Plan, runs: tuple[tuple[int, int], ...], n_cells: int) -> np.ndarray:
    """Return the cells that duplicate an earlier one, as run << 32 | index in it, ascending."""
    n_parts = max(1, -(-n_cells // _COMPARED_AT_ONCE))
    found = [np.empty(0, np.int64)]
    for part in range(n_parts):
        content, cells, rows = [], [], []
        for order, (source, piece) in enumerate(runs):
            run = Run.open(plan.run(source, piece))
            own = np.flatnonzero(run.content % np.uint64(n_parts) == part)
            own = own[run.content[own] != 0]
            content.append(run.content[own])
            cells.append(order << _RUN_BITS | own)
            rows.append(run.columns["row"][own])
        contents, places = np.concatenate(content), np.concatenate(cells)
        # Cells of a run are shuffled; keep the one that comes first in its file.
        ranks = np.lexsort((np.concatenate(rows), places >> _RUN_BITS, contents))
        same = contents[ranks][1:] == contents[ranks][:-1]
        found.append(places[ranks[1:][same]])
    return np.sort(np.concatenate(found))


@cache
def _layout(folder: Path, stamp: tuple[int, int]) -> Layout:
    return plan_layout(read_plan(folder), read_catalog(folder))


def _duplicates_of(duplicates: np.ndarray, run: int) -> np.ndarray:
    """Return the indices of the duplicates in a run."""
    start, stop = np.searchsorted(duplicates, [run << _RUN_BITS, (run + 1) << _RUN_BITS])
    return np.asarray(duplicates[start:stop]) & ((1 << _RUN_BITS) - 1)


def _key_range(keys: np.ndarray, number: int, n_shards: int) -> tuple[int, int]:
    """Return the start and stop of the cells of a run that belong to a shard."""
    edges = [each * 2**64 // n_shards for each in (number, number + 1)]
    start = int(np.searchsorted(keys, np.uint64(edges[0])))
    is_last = number + 1 == n_shards
    return start, len(keys) if is_last else int(np.searchsorted(keys, np.uint64(edges[1])))


def _overlapping(number: int, of: int, others: int) -> range:
    """Return which of `others` equal key ranges overlap range `number` of `of` ranges."""
    return range(number * others // of, -(-(number + 1) * others // of))


def _delete_tokens(plan: Plan, layout: Layout, number: int) -> None:
    """Delete the tokens of a finished shard that no unfinished shard needs."""

    def finished(n_ranges: int) -> list[int]:
        return [
            of_range
            for of_range in _overlapping(number, layout.n_shards, n_ranges)
            if all(
                _done(plan, shard).is_file()
                for shard in _overlapping(of_range, n_ranges, layout.n_shards)
            )
        ]

    ranges: dict[int, list[int]] = {}
    for each in layout.runs:
        run = Run.open(plan.run(*each))
        if run.n_ranges not in ranges:
            ranges[run.n_ranges] = finished(run.n_ranges)
        for of_range in ranges[run.n_ranges]:
            run.delete_tokens(of_range)


def _done(plan: Plan, number: int) -> Path:
    return plan.work / f"shard-{number:05}.json"


def _n_finished(plan: Plan, number: int) -> int | None:
    """Return the number of cells of a shard, None if it is not finished."""
    done = _done(plan, number)
    return int(json.loads(done.read_text(encoding="utf-8"))["n_cells"]) if done.is_file() else None


def _measured(plan: Plan, catalog: Catalog, layout: Layout) -> np.ndarray:
    """Return which genes each input measured, by its matrix or its tokens, (n_inputs, n_genes)."""
    measured = np.zeros((len(plan.inputs), catalog.vocabulary.n_genes), dtype=bool)
    tokens = catalog.vocabulary.token_ids(token_genes())
    for source, of in enumerate(plan.inputs):
        if of.kind != "tokens" and not catalog.inputs[source].error:
            own = tokens[Survey.read(plan.survey(source)).measured]
            measured[source, own[own >= 0] - 2] = True
    for source, piece in layout.runs:
        measured[source] |= Run.open(plan.run(source, piece)).seen
    return measured
