"""Jobs of the workers of a build: survey inputs, tokenise pieces."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from langcell.counts.reader import CountMatrix
from langcell.runtime.output_file import replaced_file
from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.tokenizer import RankTokenizer, merge_columns
from pretrain.corpus.catalog import CATALOG, Catalog, given_tokens, make_catalog
from pretrain.corpus.hf_inputs import read_tokens
from pretrain.corpus.matrix import open_matrix, read_rows
from pretrain.corpus.plan import Piece, Plan, Task, read_catalog, read_plan, stamp
from pretrain.corpus.survey import RowStatus, Survey, survey_input, with_remedy
from pretrain.corpus.token_dictionary import token_map
from pretrain.corpus.token_genes import gene_columns
from pretrain.corpus.tokenised_pieces import Run
from pretrain.recipe.cell_keys import content_keys, sequence_keys, shuffle_keys

# With fewer compared genes, different cells may have equal counts.
_MIN_COMPARED = 20
_GENES_FROM = 2  # token of the first gene


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tokens:
    """Tokenised cells, before filtering by genes; `places` are indices into the survey."""

    places: np.ndarray
    tokens: np.ndarray
    offsets: np.ndarray
    content: np.ndarray


def survey(folder: Path, source: int) -> int:
    """Survey an input of a build unless it is done; return its number of cells."""
    plan = read_plan(folder)
    path = plan.survey(source)
    if not path.is_file():
        found = survey_input(plan.inputs[source], plan.options, sample_cells=plan.sample_cells)
        found.write(path)
    return _survey(path, stamp(path)).n_cells


def combine_surveys(folder: Path) -> int:
    """Make the catalog of a build unless it is done; return the number of inputs.

    It runs in a worker, which has already loaded genes and terms.
    """
    plan = read_plan(folder)
    if not (plan.work / CATALOG).is_file():
        surveys = (Survey.read(plan.survey(source)) for source in range(len(plan.inputs)))
        make_catalog(surveys, plan.options).write(plan.work)
    return len(plan.inputs)


def tokenize(folder: Path, task: Task) -> int:
    """Tokenise the pieces of a task that are not done; return the cells of the task.

    Raises
    ------
    ValueError, OSError
        If the input cannot be read. With `skip_bad` the error is recorded instead.
    """
    plan = read_plan(folder)
    n_cells = sum(piece.stop - piece.start for piece in task.pieces)
    wanted = [each for each in task.pieces if not plan.run(task.source, each.number).is_file()]
    if not wanted or plan.error(task.source).is_file():
        return n_cells
    try:
        _tokenize(plan, read_catalog(folder), replace(task, pieces=tuple(wanted)))
    except (ValueError, OSError) as error:
        if not plan.options.skip_bad:
            raise with_remedy(error) from error
        with replaced_file(plan.error(task.source)) as part:
            part.write_text(str(error), encoding="utf-8")
    return n_cells


@lru_cache(maxsize=1)
def _survey(path: Path, stamp: tuple[int, int]) -> Survey:
    return Survey.read(path)


def _tokenize(plan: Plan, catalog: Catalog, task: Task) -> None:
    path, source = plan.survey(task.source), plan.inputs[task.source]
    survey = _survey(path, stamp(path))
    if source.kind == "tokens":
        table = token_map(given_tokens(plan.options), catalog.vocabulary)
        for piece in task.pieces:
            parts = _read_tokens(plan, catalog, task.source, survey, piece, table)
            _write_run(plan, catalog, task.source, survey, piece, parts)
        return
    with open_matrix(source, plan.options, survey.rows) as matrix:
        for piece in task.pieces:
            parts = _rank(plan, catalog, matrix, _kept(survey, piece))
            _write_run(plan, catalog, task.source, survey, piece, parts)


def _kept(survey: Survey, piece: Piece) -> np.ndarray:
    fate = survey.fate[piece.start : piece.stop]
    return piece.start + np.flatnonzero(fate == RowStatus.KEPT)


def _rank(plan: Plan, catalog: Catalog, matrix: CountMatrix, kept: np.ndarray) -> Iterator[_Tokens]:
    """Tokenise the kept cells of a matrix by ranking their genes."""
    tokenizer = RankTokenizer(catalog.vocabulary, max_genes=plan.options.max_genes)
    genes = tokenizer.column_genes(matrix.resolution)
    places = gene_columns(matrix.resolution.ensembl_ids)
    bits = np.where(places >= 0, catalog.gene_bits[places], np.uint64(0))
    merged = replace(genes, first_columns=None)
    for block in read_rows(matrix, kept):
        counts = merge_columns(block.counts, genes)
        found = tokenizer.tokenize_csr(counts, merged, block.totals)
        content = content_keys(
            counts.indptr, counts.indices, counts.data, bits, min_genes=_MIN_COMPARED
        )
        yield _Tokens(
            places=kept[block.start : block.start + len(block.totals)],
            tokens=found.tokens,
            offsets=found.offsets,
            content=content,
        )


def _read_tokens(
    plan: Plan, catalog: Catalog, source: int, survey: Survey, piece: Piece, table: np.ndarray
) -> Iterator[_Tokens]:
    """Read the tokens of a tokenised input and map them to our vocabulary."""
    path, first = Path(plan.inputs[source].path), plan.inputs[source].start
    for rows in read_tokens(path, first + piece.start, first + piece.stop):
        outside = (rows.tokens < 0) | (rows.tokens >= len(table))
        ours = table[np.where(outside, -1, rows.tokens)]
        lengths, offsets = np.diff(rows.offsets), np.zeros(len(rows.offsets), dtype=np.int64)
        cells = np.repeat(np.arange(len(lengths)), lengths)
        # Keep the first max_genes known tokens of each cell.
        known = ours >= 0
        before = np.append(0, np.cumsum(known))  # (n_tokens + 1,)
        place = before[:-1] - before[rows.offsets[:-1]][cells]
        used = known & (place < plan.options.max_genes)
        np.cumsum(np.bincount(cells[used], minlength=len(lengths)), out=offsets[1:])
        tokens = ours[used].astype(np.uint16)
        yield _Tokens(
            places=np.arange(len(lengths)) + rows.start - first,
            tokens=tokens,
            offsets=offsets,
            content=sequence_keys(tokens, offsets),
        )


def _write_run(
    plan: Plan,
    catalog: Catalog,
    source: int,
    survey: Survey,
    piece: Piece,
    parts: Iterator[_Tokens],
) -> None:
    """Drop cells with few genes, sort the others by their keys and write them."""
    none = PackedCells(tokens=np.empty(0, np.uint16), offsets=np.zeros(1, np.int64), columns={})
    packed, places, contents, n_few = [none], [np.empty(0, np.int64)], [np.empty(0, np.uint64)], 0
    seen = np.zeros(catalog.vocabulary.n_genes, dtype=bool)
    for part in parts:
        is_wanted = survey.fate[part.places] == RowStatus.KEPT
        is_long = np.diff(part.offsets) >= max(1, plan.options.min_genes)
        kept = np.flatnonzero(is_wanted & is_long)
        n_few += int(np.count_nonzero(is_wanted & ~is_long))
        cells = PackedCells(tokens=part.tokens, offsets=part.offsets, columns={})
        packed.append(cells if len(kept) == len(is_long) else cells.take(kept))
        places.append(part.places[kept])
        contents.append(part.content[kept])
        if plan.inputs[source].kind == "tokens":  # for counts the survey has the measured genes
            seen[packed[-1].tokens.astype(np.int64) - _GENES_FROM] = True
    unsorted = np.concatenate(places)
    keys = shuffle_keys(plan.options.seed, source, survey.rows[unsorted])
    order = np.argsort(keys, kind="stable")
    columns = catalog.recoded(
        {name: column.take(unsorted[order]) for name, column in survey.columns.items()}
    )
    columns["file"] = np.full(len(order), source, dtype=np.int32)
    columns["row"] = survey.rows[unsorted[order]]
    lengths = np.concatenate([cells.lengths for cells in packed])[order]
    run = Run(
        path=plan.run(source, piece.number),
        keys=keys[order],
        content=np.concatenate(contents)[order],
        offsets=np.append(0, np.cumsum(lengths)),
        columns=columns,
        seen=seen,
        n_few=n_few,
    )
    ranges = pairwise(run.range_starts)
    run.write(PackedCells.gathered(packed, order[start:stop]).tokens for start, stop in ranges)
