"""Open the training cells of a run: files in memory, or a corpus of shards."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.genes.vocabulary import GeneVocabulary
from langcell.tokens.token_corpus import TokenCorpus
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.cells.linear_teacher import FILE as LINEAR_TEACHER
from pretrain.cells.linear_teacher import LinearTeacher, fit_linear_teacher
from pretrain.cells.mean_expression import TypeMeans, gene_variability, type_means
from pretrain.cells.memory_corpus import Corpus, read_corpus
from pretrain.cells.sampled_cells import SampledSource
from pretrain.cells.sampling import CellSampler
from pretrain.cells.shard_cells import ShardSource
from pretrain.cells.shard_sampler import ShardSampler
from pretrain.cells.shard_types import shard_type_means, shard_types
from pretrain.cells.step_cells import CellSource
from pretrain.cells.vocabulary import build_vocabulary
from pretrain.recipe.config import Recipe
from pretrain.recipe.holdout import HeldOut, choose_held_out, hold_out
from pretrain.recipe.sources import SourceFile, find_sources

Log = Callable[[str], None]
_SAMPLE_CELLS = 20_000  # of shards, to estimate the mean expression of types


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Training cells of a run.

    Attributes
    ----------
    held_out
        Held-out types.
    vocabulary
        Genes that are tokens.
    types
        Types and aspects of the cells.
    means
        Returns the mean expression of each type.
    open_source
        Returns the cell source, given the maximum genes per cell of the teachers.
    """

    held_out: HeldOut
    vocabulary: GeneVocabulary
    types: CellTypes
    means: Callable[[], TypeMeans]
    open_source: Callable[[int], CellSource]


def open_data(
    recipe: Recipe, ontology: Ontology, vocabulary: GeneVocabulary | None, log: Log
) -> TrainingData:
    """Read or open the training cells of a recipe.

    Parameters
    ----------
    recipe
        Checked recipe.
    ontology
        Ontology of the types.
    vocabulary
        Vocabulary of a resumed run; None for a new run.
    log
        Called with a progress message at each stage.
    """
    open_cells = _open_shards if recipe.shards.folder else _read_files
    data = open_cells(recipe, ontology, vocabulary, log)
    log(f"{data.vocabulary.n_genes} genes")
    return data


def open_corpus(recipe: Recipe, *, verify: bool) -> TokenCorpus:
    """Open the shards of a recipe.

    Raises
    ------
    FileNotFoundError, ValueError
        If they are damaged, or keep fewer genes per cell than the model reads.
    """
    corpus = TokenCorpus(Path(recipe.shards.folder).expanduser(), verify=verify)
    if recipe.model.max_genes > corpus.manifest.max_genes:
        raise ValueError(
            f"model.max_genes is {recipe.model.max_genes}, but {corpus.folder} keeps "
            f"{corpus.manifest.max_genes} genes per cell: lower model.max_genes, or rebuild the corpus "
            f"with langcell corpus build --max-genes {recipe.model.max_genes}"
        )
    return corpus


def shard_holdout(corpus: TokenCorpus, recipe: Recipe, ontology: Ontology) -> HeldOut:
    """Choose the types that the recipe's `holdout` drops from a corpus of shards."""
    if not recipe.holdout.share:
        return HeldOut(rows={}, n_terms=0)
    counts: Counter[str] = Counter()
    for term, _, n_cells in corpus.manifest.pairs:
        if term >= 0:
            counts[corpus.manifest.categories["term"][term]] += n_cells
    return choose_held_out(counts, recipe.holdout, ontology)


def _open_shards(
    recipe: Recipe, ontology: Ontology, vocabulary: GeneVocabulary | None, log: Log
) -> TrainingData:
    if recipe.shards.verify:
        log(f"verifying the checksums of {recipe.shards.folder}")
    corpus = open_corpus(recipe, verify=recipe.shards.verify)
    if vocabulary is not None and vocabulary.ensembl_ids != corpus.vocabulary.ensembl_ids:
        raise ValueError(
            f"the run was started with other genes than those of {corpus.folder}; use its own corpus"
        )
    held_out = shard_holdout(corpus, recipe, ontology)
    _log_held_out(held_out, ontology, log)
    types = shard_types(corpus, ontology, without=held_out.term_ids)
    sampler = ShardSampler(
        corpus,
        recipe.balance,
        seed=recipe.seed,
        without=held_out.term_ids,
        max_repeats=recipe.shards.max_repeats,
        block_cells=recipe.shards.block_cells,
    )
    n_unlabelled = sum(n for term, _, n in corpus.manifest.pairs if term < 0)
    left_out = f"; {n_unlabelled:,} without a type are left out" if n_unlabelled else ""
    log(
        f"{len(corpus):,} cells of {len(types.types.term_ids)} types from "
        f"{len(corpus.manifest.categories['study'])} studies in shards{left_out}"
    )
    means = shard_type_means(corpus, types, n_cells=_SAMPLE_CELLS)
    variability = gene_variability(means)
    return TrainingData(
        held_out=held_out,
        vocabulary=corpus.vocabulary,
        types=types.types,
        means=lambda: means,
        open_source=lambda teacher_genes: ShardSource(
            recipe, sampler, types, variability, teacher_genes=teacher_genes
        ),
    )


def _read_files(
    recipe: Recipe, ontology: Ontology, vocabulary: GeneVocabulary | None, log: Log
) -> TrainingData:
    files = find_sources(recipe)
    held_out = hold_out(recipe, files, ontology)
    _log_held_out(held_out, ontology, log)
    corpus = _read(recipe, files, held_out, ontology, log)
    if vocabulary is None:
        log("choosing genes and estimating their medians")
        vocabulary = build_vocabulary(
            corpus,
            recipe.vocabulary,
            recipe.augmentation,
            recipe.balance,
            seed=recipe.vocabulary.seed,
        )
    known = vocabulary
    corpus = corpus.keep_genes(known.token_ids(corpus.ensembl_ids) >= 0)

    def open_source(teacher_genes: int) -> CellSource:
        sampler = CellSampler(corpus, recipe.augmentation, recipe.balance, seed=recipe.seed)
        return SampledSource(
            recipe,
            sampler,
            known,
            teacher_genes=teacher_genes,
            linear_teacher=_linear_teacher(recipe, sampler, log),
        )

    return TrainingData(
        held_out=held_out,
        vocabulary=known,
        types=corpus.types,
        means=lambda: type_means(corpus),
        open_source=open_source,
    )


def _read(
    recipe: Recipe,
    files: list[SourceFile],
    held_out: HeldOut,
    ontology: Ontology,
    log: Log,
) -> Corpus:
    done = 0

    def on_file(file: SourceFile) -> None:
        nonlocal done
        done += 1
        if done == 1 or done % 20 == 0 or done == len(files):
            log(f"reading {file.name} ({done} of {len(files)} files)")

    corpus = read_corpus(
        files, recipe.columns, ontology, without=held_out.term_ids, on_file=on_file
    )
    n_profiles = int(np.isin(corpus.source, [i for i, f in enumerate(files) if f.is_profile]).sum())
    log(
        f"{corpus.n_examples - n_profiles} cells and {n_profiles} profiles of "
        f"{len(corpus.term_ids)} types from {len(corpus.studies)} studies"
    )
    return corpus


def _linear_teacher(recipe: Recipe, sampler: CellSampler, log: Log) -> LinearTeacher | None:
    """Fit the linear teacher if the recipe has one; a resumed run reads the fitted one."""
    if not recipe.linear_teacher.steps:
        return None
    path = Path(recipe.output).expanduser() / LINEAR_TEACHER
    if path.is_file():
        return LinearTeacher.read(path)
    log("fitting the linear teacher")
    teacher = fit_linear_teacher(
        sampler, recipe.linear_teacher, batch_size=recipe.optimisation.batch_size, log=log
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    teacher.write(path)
    return teacher


def _log_held_out(held_out: HeldOut, ontology: Ontology, log: Log) -> None:
    for line in held_out.lines(ontology):
        log(line)
