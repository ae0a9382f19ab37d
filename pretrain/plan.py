"""The dry run: look at everything that a run needs, before its first step."""

import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.counts import open_counts
from langcell.towers import find_tower
from ontology.graph import Ontology
from pretrain.build import open_ontology
from pretrain.config import Recipe
from pretrain.holdout import HeldOut, hold_out
from pretrain.shard_types import shard_types
from pretrain.sources import SourceFile, find_sources, label_rows
from pretrain.training_data import open_corpus, shard_holdout


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """What a run would take from one file."""

    name: str
    role: str  # cells, profiles, shards or validation
    scale: str
    n_rows: int
    n_kept: int
    n_terms: int
    n_genes: int
    unknown: tuple[str, ...]


_Looked = tuple[list[PlannedFile], HeldOut, set[str], set[str]]  # terms and studies last


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do."""

    files: tuple[PlannedFile, ...]
    ontology: str
    n_terms: int
    n_studies: int
    held_out: tuple[str, ...]  # lines that say which types, and how many rows
    validation_only: tuple[str, ...]  # validation types that no training file has


def plan(recipe: Recipe) -> Plan:
    """Check every path, column and ontology id of a recipe without training anything.

    Raises
    ------
    ValueError, OSError
        For the first thing that a run would fail on; one line that names it.
    """
    ontology = open_ontology(recipe)
    find_tower(recipe.text.tower)
    _check_output(Path(recipe.output).expanduser())
    if recipe.shards.folder:
        files, held_out, terms, studies = _look_at_shards(recipe, ontology)
    else:
        files, held_out, terms, studies = _look_at_files(recipe, ontology)
    if not terms:
        raise ValueError(f"no row of the {len(files)} files has a term of {ontology.title}")
    validated: set[str] = set()
    for each in recipe.validation.files:
        path = recipe.root / each.path
        if not path.is_file():
            raise FileNotFoundError(f"no validation file {path}")
        source = SourceFile(path=path, is_profile=False, scale=each.scale)
        planned, own_terms, _ = _look(source, recipe, ontology, "validation")
        files.append(planned)
        validated |= own_terms
    return Plan(
        files=tuple(files),
        ontology=ontology.title,
        n_terms=len(terms),
        n_studies=len(studies),
        held_out=tuple(held_out.lines(ontology)),
        validation_only=tuple(sorted(validated - terms)),
    )


def _look_at_files(recipe: Recipe, ontology: Ontology) -> _Looked:
    sources = find_sources(recipe)
    held_out = hold_out(recipe, sources, ontology)
    files, terms, studies = [], set(), set()
    for file in sources:
        planned, own_terms, own_studies = _look(
            file, recipe, ontology, None, without=held_out.term_ids
        )
        files.append(planned)
        terms |= own_terms
        studies |= own_studies
    return files, held_out, terms, studies


def _look_at_shards(recipe: Recipe, ontology: Ontology) -> _Looked:
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
    return [planned], held_out, set(types.types.term_ids), studies


def _look(
    file: SourceFile,
    recipe: Recipe,
    ontology: Ontology,
    role: str | None,
    *,
    without: Set[str] = frozenset(),
) -> tuple[PlannedFile, set[str], set[str]]:
    rows = label_rows(file.path, recipe.columns, ontology, without=without)
    with open_counts(file.path, scale=file.scale) as matrix:
        n_genes = int(np.count_nonzero(matrix.resolution.ensembl_ids != ""))
    if not n_genes:
        raise ValueError(f"{file.path}: none of its gene names is known")
    planned = PlannedFile(
        name=file.name,
        role=role or ("profiles" if file.is_profile else "cells"),
        scale=file.scale,
        n_rows=rows.n_rows,
        n_kept=len(rows.rows),
        n_terms=len(set(rows.term_ids)),
        n_genes=n_genes,
        unknown=rows.unknown,
    )
    return planned, set(rows.term_ids), set(rows.studies)


def _check_output(output: Path) -> None:
    folder = output
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(
            f"output {output} cannot be written: {folder} is not a writable folder"
        )
