"""Dry run: check everything that a run needs before its first step."""

import os
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from langcell.checkpoints.checkpoint import resolve_checkpoint
from langcell.checkpoints.text_towers import find_tower
from langcell.counts.reader import open_counts
from ontology.graph import Ontology
from pretrain.cells.shard_types import shard_types
from pretrain.cells.training_data import open_corpus, shard_holdout
from pretrain.recipe.config import Recipe
from pretrain.recipe.holdout import HeldOut, hold_out
from pretrain.recipe.sources import LabelledRows, SourceFile, find_sources, label_rows
from pretrain.run.build import NOT_MEASURED, open_ontology
from pretrain.run.recipe_model import count_parameters


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """Rows, types and genes that a run would use of one file."""

    name: str
    role: str  # cells, profiles, shards or validation
    scale: str
    n_rows: int
    n_kept: int
    n_terms: int
    n_genes: int
    unknown: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _TrainingData:
    """Summary of the training files or shards of a recipe."""

    files: list[PlannedFile]
    held_out: HeldOut
    terms: set[str]
    studies: set[str]
    n_genes: int  # genes that may become tokens


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Data and model size of a run, found without training."""

    files: tuple[PlannedFile, ...]
    ontology: str
    n_terms: int
    n_studies: int
    held_out: tuple[str, ...]  # printed lines: types and their rows
    validation_only: tuple[str, ...]  # validation types without training data
    n_genes: int  # tokens; an upper bound for files, as medians are not estimated yet
    n_parameters: dict[str, int]  # by part of the model, for n_genes genes
    not_measured: str  # why validation is skipped; '' if it is not


def plan(recipe: Recipe) -> Plan:
    """Check every path, column and ontology id of a recipe without training anything.

    Raises
    ------
    ValueError, OSError
        For the first problem that would make a run fail; one line that names it.
    """
    ontology = open_ontology(recipe)
    if recipe.losses.read_texts:
        find_tower(recipe.text.tower)
    for name in filter(None, (recipe.model.start_from, *recipe.teachers)):
        resolve_checkpoint(name)
    _check_output(Path(recipe.output).expanduser())
    inspect = _inspect_shards if recipe.shards.folder else _inspect_files
    found = inspect(recipe, ontology)
    if not found.terms:
        raise ValueError(
            f"no row of the {len(found.files)} training files has a term of {ontology.title}"
        )
    validated: set[str] = set()
    for each in recipe.validation.files:
        path = recipe.root / each.path
        if not path.is_file():
            raise FileNotFoundError(f"validation file {path} does not exist")
        source = SourceFile(path=path, is_profile=False, scale=each.scale)
        planned, labels, _ = _inspect_file(source, recipe, ontology, "validation")
        found.files.append(planned)
        validated |= set(labels.term_ids)
    return Plan(
        files=tuple(found.files),
        ontology=ontology.title,
        n_terms=len(found.terms),
        n_studies=len(found.studies),
        held_out=tuple(found.held_out.lines(ontology)),
        validation_only=tuple(sorted(validated - found.terms)),
        n_genes=found.n_genes,
        n_parameters=count_parameters(recipe, found.n_genes),
        not_measured="" if recipe.losses.read_texts or not validated else NOT_MEASURED,
    )


def _inspect_files(recipe: Recipe, ontology: Ontology) -> _TrainingData:
    sources = find_sources(recipe)
    held_out = hold_out(recipe, sources, ontology)
    files: list[PlannedFile] = []
    terms: set[str] = set()
    studies: set[str] = set()
    measured: Counter[str] = Counter()
    for file in sources:
        planned, labels, genes = _inspect_file(
            file, recipe, ontology, None, without=held_out.term_ids
        )
        files.append(planned)
        terms |= set(labels.term_ids)
        studies |= set(labels.studies)
        measured.update(genes)
    n_genes = sum(n >= recipe.vocabulary.min_sources for n in measured.values())
    return _TrainingData(
        files=files, held_out=held_out, terms=terms, studies=studies, n_genes=n_genes
    )


def _inspect_shards(recipe: Recipe, ontology: Ontology) -> _TrainingData:
    corpus = open_corpus(recipe, verify=False)
    held_out = shard_holdout(corpus, recipe, ontology)
    types = shard_types(corpus, ontology, without=held_out.term_ids)
    pairs = [(term, study, n) for term, study, n in corpus.manifest.pairs if types.term[term] >= 0]
    planned = PlannedFile(
        name=str(corpus.folder),
        role="shards",
        scale="ranks",
        n_rows=len(corpus),
        n_kept=sum(n for term, _, n in pairs if term >= 0),
        n_terms=len(types.types.term_ids),
        n_genes=corpus.vocabulary.n_genes,
        unknown=(),
    )
    names = corpus.manifest.categories["study"]
    studies = {names[study] for term, study, _ in pairs if term >= 0 <= study}
    return _TrainingData(
        files=[planned],
        held_out=held_out,
        terms=set(types.types.term_ids),
        studies=studies,
        n_genes=corpus.vocabulary.n_genes,
    )


def _inspect_file(
    file: SourceFile,
    recipe: Recipe,
    ontology: Ontology,
    role: str | None,
    *,
    without: Set[str] = frozenset(),
) -> tuple[PlannedFile, LabelledRows, set[str]]:
    """Return the plan, the labelled rows and the Ensembl gene ids of a file."""
    rows = label_rows(file.path, recipe.columns, ontology, without=without)
    with open_counts(file.path, scale=file.scale) as matrix:
        genes = set(matrix.resolution.ensembl_ids) - {""}
    if not genes:
        raise ValueError(f"{file.path}: none of its gene names is a known gene")
    planned = PlannedFile(
        name=file.name,
        role=role or ("profiles" if file.is_profile else "cells"),
        scale=file.scale,
        n_rows=rows.n_rows,
        n_kept=len(rows.rows),
        n_terms=len(set(rows.term_ids)),
        n_genes=len(genes),
        unknown=rows.unknown,
    )
    return planned, rows, genes


def _check_output(output: Path) -> None:
    folder = output
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write output {output}: {folder} is not a writable folder")
