"""From a recipe to the parts of a run: corpus, vocabulary, model, texts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from langcell.config import CellEncoderConfig, LangCellConfig, MatchingConfig
from langcell.genes import GeneVocabulary
from langcell.label_embeddings import LabelEmbeddings
from langcell.model import LangCell
from langcell.towers import text_encoder_config
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from pretrain.collate import StepBuilder
from pretrain.config import Recipe
from pretrain.expression import TypeMeans
from pretrain.gene_init import svd_gene_embeddings
from pretrain.holdout import HeldOut
from pretrain.label_texts import LabelTexts, build_label_texts
from pretrain.negatives import ancestor_targets, comparable_terms
from pretrain.objective import TextTensors
from pretrain.step_cells import CellSource
from pretrain.teachers import Teachers, load_teachers
from pretrain.texts import TextTable, build_text_table, encode_templates, pool_cached
from pretrain.trained_types import TrainedTypes
from pretrain.training_data import open_data
from pretrain.validation import LabelledTokens, read_validation
from pretrain.warm_start import start_from


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Everything that a run is put together from.

    Attributes
    ----------
    candidates
        Cell types that can be called (`text.candidates`), then training types not among them.
    labels
        Their pooled texts, as they travel with the checkpoint.
    reference
        Tokens of the cells whose features travel with it (`langcell.reference`).
    """

    ontology: Ontology
    held_out: HeldOut
    model: LangCell
    source: CellSource
    builder: StepBuilder
    texts: TextTensors
    teachers: Teachers | None
    candidates: tuple[str, ...]
    labels: LabelEmbeddings
    reference: list[np.ndarray]
    validation: list[LabelledTokens]


def open_ontology(recipe: Recipe) -> Ontology:
    """Return the Cell Ontology release that the recipe names."""
    if recipe.ontology == "bundled":
        return Ontology.bundled()
    return Ontology.from_obo(Path(recipe.ontology).expanduser())


def build_parts(
    recipe: Recipe,
    *,
    vocabulary: GeneVocabulary | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Parts:
    """Read the corpus and build all parts.

    Parameters
    ----------
    recipe
        Checked recipe.
    vocabulary
        Of a run that is resumed; None makes one from the corpus.
    say
        Takes a line at each stage.
    """
    ontology = open_ontology(recipe)
    data = open_data(recipe, ontology, vocabulary, say)
    say("building the model")
    model = build_model(recipe, data.vocabulary, data.means)
    table = build_text_table(data.types, ontology, recipe.text)
    candidates = _candidates(recipe, ontology, data.types)
    wordings = build_label_texts(ontology, candidates, max_synonyms=recipe.text.max_synonyms)
    say(f"encoding {len(table.texts)} texts of the corpus, {len(wordings.texts)} of the ontology")
    texts = _encode_texts(model, recipe, ontology, data.types, table, wordings, candidates)
    labels = LabelEmbeddings(
        term_ids=candidates,
        texts=tuple(wordings.texts[start] for start in wordings.starts[:-1]),
        pooled=texts.labels[texts.descriptions].numpy().astype(np.float16),
        release=ontology.release,
    )
    teachers = None
    if recipe.losses.distillation:
        say(f"loading {len(recipe.teachers)} teachers")
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
        builder=StepBuilder(recipe, data.vocabulary, data.types, table, wordings),
        texts=texts,
        teachers=teachers,
        candidates=candidates,
        labels=labels,
        reference=source.reference_cells(recipe.reference_cells),
        validation=read_validation(recipe, ontology, data.vocabulary, candidates),
    )


def build_model(
    recipe: Recipe, vocabulary: GeneVocabulary, means: Callable[[], TypeMeans]
) -> LangCell:
    """Return an untrained model; its random start depends on the seed alone."""
    sizes = recipe.model
    config = LangCellConfig(
        cell=CellEncoderConfig(
            kind=sizes.kind,
            vocab_size=vocabulary.size,
            max_positions=(sizes.attended_genes or sizes.max_genes) + 1,
            hidden_size=sizes.hidden_size,
            n_layers=sizes.n_layers,
            n_heads=sizes.n_heads,
            intermediate_size=sizes.intermediate_size,
            hidden_act=sizes.hidden_act,
            bag_size=sizes.bag_size,
            dropout=sizes.dropout,
            attention_dropout=sizes.attention_dropout,
            pooling=sizes.pooling,
        ),
        text=text_encoder_config(recipe.text.tower, max_tokens=recipe.text.max_tokens),
        matching=MatchingConfig(
            n_layers=sizes.matching_layers,
            hidden_size=sizes.matching_hidden_size,
            intermediate_size=2 * sizes.matching_hidden_size,
            interaction=sizes.matching_interaction,
            dropout=sizes.dropout,
            attention_dropout=sizes.attention_dropout,
        ),
        embedding_dim=sizes.embedding_dim,
        max_genes=sizes.max_genes,
        logit_scale_init=math.log(1 / sizes.temperature),
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = LangCell(config, vocabulary)
    if sizes.start_from:
        start_from(model, sizes.start_from)
    elif sizes.init_gene_embeddings == "svd":
        embeddings = svd_gene_embeddings(
            means(), vocabulary, width=sizes.hidden_size, std=sizes.init_std, seed=recipe.seed
        )
        with torch.no_grad():
            model.cell_encoder.gene_embeddings[2 : vocabulary.n_genes + 2] = embeddings
    return model


def _candidates(recipe: Recipe, ontology: Ontology, types: TrainedTypes) -> tuple[str, ...]:
    named = all_cell_types(ontology) if recipe.text.candidates == "all" else ()
    return (*named, *sorted(set(types.term_ids) - set(named)))


def _encode_texts(
    model: LangCell,
    recipe: Recipe,
    ontology: Ontology,
    types: TrainedTypes,
    table: TextTable,
    wordings: LabelTexts,
    candidates: tuple[str, ...],
) -> TextTensors:
    losses = recipe.losses
    below = None
    if losses.ontology_form == "subtree":
        rows = [ontology.index[term_id] for term_id in candidates]
        # Row: label, column: itself or an ancestor. 3,000 x 3,000, not cells x genes.
        below = torch.from_numpy(ontology.closure[rows][:, rows].toarray().astype(np.float32))
    described = [table.texts[own[0]] for own in table.bare]
    # Token states of all templates take long, and matching alone reads them.
    templates = encode_templates(model, described if losses.matching else described[:1])
    targets = ancestor_targets(ontology, types.term_ids, candidates, losses.ancestor_decay)
    comparable = comparable_terms(ontology, types.term_ids, candidates)
    return TextTensors(
        pooled=pool_cached(model, table.texts),
        term=torch.from_numpy(table.term),
        aspects=torch.from_numpy(table.aspects),
        templates=templates,
        template_rows=torch.tensor([own[0] for own in table.bare]),
        comparable=torch.from_numpy(comparable_terms(ontology, types.term_ids, types.term_ids)),
        labels=pool_cached(model, wordings.texts),
        descriptions=torch.from_numpy(wordings.starts[:-1]),
        targets=torch.from_numpy(targets),
        label_comparable=torch.from_numpy(comparable),
        below=below,
    )
