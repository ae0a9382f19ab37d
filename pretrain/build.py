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
from ontology.descriptions import describe
from ontology.graph import Ontology
from pretrain.collate import StepBuilder
from pretrain.config import Recipe
from pretrain.corpus import Corpus, read_corpus
from pretrain.gene_init import svd_gene_embeddings
from pretrain.negatives import comparable_terms
from pretrain.objective import TextTensors
from pretrain.sampling import CellSampler
from pretrain.sources import SourceFile, find_sources
from pretrain.texts import TextTable, build_text_table, encode_templates, pool_cached
from pretrain.validation import LabelledTokens, read_validation
from pretrain.vocabulary import build_vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Everything that a run is put together from.

    Attributes
    ----------
    candidates
        Cell types that can be called (`text.candidates`), then training types not among them.
    labels
        Their pooled texts, as they travel with the checkpoint.
    """

    corpus: Corpus
    model: LangCell
    builder: StepBuilder
    texts: TextTensors
    candidates: tuple[str, ...]
    labels: LabelEmbeddings
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
    corpus = _read(recipe, ontology, say)
    if vocabulary is None:
        say("choosing genes and estimating their medians")
        vocabulary = build_vocabulary(
            corpus, recipe.vocabulary, recipe.augmentation, recipe.balance, seed=recipe.seed
        )
    corpus = corpus.keep_genes(vocabulary.token_ids(corpus.ensembl_ids) >= 0)
    say(f"{vocabulary.n_genes} genes; building the model")
    model = build_model(recipe, vocabulary, corpus)
    table = build_text_table(corpus, ontology, recipe.text)
    candidates = _candidates(recipe, ontology, corpus)
    say(f"encoding {len(table.texts)} texts of the corpus, {len(candidates)} of the ontology")
    texts, labels = _encode_texts(model, ontology, corpus, table, candidates)
    sampler = CellSampler(corpus, recipe.augmentation, recipe.balance, seed=recipe.seed)
    return Parts(
        corpus=corpus,
        model=model,
        builder=StepBuilder(recipe, sampler, vocabulary, table, n_candidates=len(candidates)),
        texts=texts,
        candidates=candidates,
        labels=labels,
        validation=read_validation(recipe, ontology, vocabulary, candidates),
    )


def build_model(recipe: Recipe, vocabulary: GeneVocabulary, corpus: Corpus) -> LangCell:
    """Return an untrained model; its random start depends on the seed alone."""
    sizes = recipe.model
    config = LangCellConfig(
        cell=CellEncoderConfig(
            vocab_size=vocabulary.size,
            max_positions=sizes.max_genes + 1,
            hidden_size=sizes.hidden_size,
            n_layers=sizes.n_layers,
            n_heads=sizes.n_heads,
            intermediate_size=sizes.intermediate_size,
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
    if sizes.init_gene_embeddings == "svd":
        embeddings = svd_gene_embeddings(
            corpus, vocabulary, width=sizes.hidden_size, seed=recipe.seed
        )
        with torch.no_grad():
            model.cell_encoder.gene_embeddings[2 : vocabulary.n_genes + 2] = embeddings
    return model


def _read(recipe: Recipe, ontology: Ontology, say: Callable[[str], None]) -> Corpus:
    files = find_sources(recipe)
    done = 0

    def on_file(file: SourceFile) -> None:
        nonlocal done
        done += 1
        if done == 1 or done % 20 == 0 or done == len(files):
            say(f"reading {file.name} ({done} of {len(files)} files)")

    corpus = read_corpus(files, recipe.columns, ontology, on_file=on_file)
    n_profiles = int(np.isin(corpus.source, [i for i, f in enumerate(files) if f.is_profile]).sum())
    say(
        f"{corpus.n_examples - n_profiles} cells and {n_profiles} profiles of "
        f"{len(corpus.term_ids)} types from {len(corpus.studies)} studies"
    )
    return corpus


def _candidates(recipe: Recipe, ontology: Ontology, corpus: Corpus) -> tuple[str, ...]:
    named = all_cell_types(ontology) if recipe.text.candidates == "all" else ()
    return (*named, *sorted(set(corpus.term_ids) - set(named)))


def _encode_texts(
    model: LangCell,
    ontology: Ontology,
    corpus: Corpus,
    table: TextTable,
    candidates: tuple[str, ...],
) -> tuple[TextTensors, LabelEmbeddings]:
    descriptions = tuple(describe(ontology, term_id) for term_id in candidates)
    pooled = pool_cached(model, descriptions)
    texts = TextTensors(
        pooled=pool_cached(model, table.texts),
        term=torch.from_numpy(table.term),
        aspects=torch.from_numpy(table.aspects),
        templates=encode_templates(model, [table.texts[own[0]] for own in table.bare]),
        template_rows=torch.tensor([own[0] for own in table.bare]),
        comparable=torch.from_numpy(comparable_terms(ontology, corpus.term_ids, corpus.term_ids)),
        candidates=pooled,
        candidate_comparable=torch.from_numpy(
            comparable_terms(ontology, corpus.term_ids, candidates)
        ),
    )
    labels = LabelEmbeddings(
        term_ids=candidates,
        texts=descriptions,
        pooled=pooled.numpy().astype(np.float16),
        release=ontology.release,
    )
    return texts, labels
