"""Build the parts of a run from a recipe: corpus, vocabulary, model, texts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.cells.step_cells import CellSource
from pretrain.cells.training_data import open_data
from pretrain.recipe.config import Recipe
from pretrain.recipe.holdout import HeldOut
from pretrain.run.recipe_model import build_model
from pretrain.run.validation import LabelledTokens, read_validation
from pretrain.steps.collator import Collator
from pretrain.steps.teachers import Teachers, load_teachers
from pretrain.texts.label_embeddings import BundledLabels
from pretrain.texts.label_texts import build_label_texts
from pretrain.texts.text_table import build_text_table
from pretrain.texts.text_tensors import TextTensors, build_text_tensors

NOT_MEASURED = (
    "validation is skipped: without a loss that reads texts the model cannot predict labels, so "
    "there is no macro-F1 or R@k; the last weights are kept as the best"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Everything that a training run needs.

    Attributes
    ----------
    candidates
        Candidate cell types (`text.candidates`), then the training types not among them.
    labels
        Their texts, which are saved in the checkpoint; None if no loss reads texts.
    reference
        Tokens of the reference cells, whose features are saved in the checkpoint
        (`langcell.checkpoints.reference_cells`).
    """

    ontology: Ontology
    held_out: HeldOut
    model: LangCell
    source: CellSource
    collator: Collator
    texts: TextTensors
    teachers: Teachers | None
    candidates: tuple[str, ...]
    labels: BundledLabels | None
    reference: list[np.ndarray]
    validation: list[LabelledTokens]


def open_ontology(recipe: Recipe) -> Ontology:
    """Open the Cell Ontology release that the recipe names."""
    if recipe.ontology == "bundled":
        return Ontology.bundled()
    return Ontology.from_obo(Path(recipe.ontology).expanduser())


def build_parts(
    recipe: Recipe,
    *,
    vocabulary: GeneVocabulary | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Parts:
    """Read the corpus and build all parts.

    Parameters
    ----------
    recipe
        Checked recipe.
    vocabulary
        Vocabulary of a resumed run; None builds one from the corpus.
    log
        Called with a progress message at each stage.
    """
    ontology = open_ontology(recipe)
    data = open_data(recipe, ontology, vocabulary, log)
    log("building the model")
    model = build_model(recipe, data.vocabulary, data.means, log)
    table = build_text_table(data.types, ontology, recipe.text)
    candidates = _candidates(recipe, ontology, data.types)
    wordings = build_label_texts(ontology, candidates, max_synonyms=recipe.text.max_synonyms)
    texts = build_text_tensors(
        model, recipe, ontology, data.types, table, wordings, candidates, log
    )
    labels = None
    if recipe.losses.read_texts:
        labels = BundledLabels(
            term_ids=candidates,
            texts=tuple(wordings.texts[start] for start in wordings.starts[:-1]),
            release=ontology.release,
            pooled=None if texts.tokens else texts.labels[texts.descriptions],
        )
    teachers = None
    if recipe.losses.distillation:
        log(f"loading {len(recipe.teachers)} teachers")
        teachers = load_teachers(
            recipe.teachers,
            data.vocabulary,
            texts.labels[texts.descriptions],
            [candidates.index(term_id) for term_id in data.types.term_ids],
            linear_weight=recipe.linear_teacher.weight,
        )
    source = data.open_source(teachers.max_genes if teachers else 0)
    return Parts(
        ontology=ontology,
        held_out=data.held_out,
        model=model,
        source=source,
        collator=Collator(recipe, data.vocabulary, data.types, table, wordings),
        texts=texts,
        teachers=teachers,
        candidates=candidates,
        labels=labels,
        reference=source.reference_cells(recipe.reference_cells),
        validation=_validation(recipe, ontology, data.vocabulary, candidates, log),
    )


def _candidates(recipe: Recipe, ontology: Ontology, types: CellTypes) -> tuple[str, ...]:
    named = all_cell_types(ontology) if recipe.text.candidates == "all" else ()
    return (*named, *sorted(set(types.term_ids) - set(named)))


def _validation(
    recipe: Recipe,
    ontology: Ontology,
    vocabulary: GeneVocabulary,
    candidates: tuple[str, ...],
    log: Callable[[str], None],
) -> list[LabelledTokens]:
    """Read the validation files, unless no loss reads texts."""
    if recipe.losses.read_texts:
        return read_validation(recipe, ontology, vocabulary, candidates)
    if recipe.validation.files:
        log(NOT_MEASURED)
    return []
