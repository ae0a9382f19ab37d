"""Build the model of a recipe, with random weights or those of a warm start."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from langcell.checkpoints.text_towers import load_tower, text_encoder_config
from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell
from langcell.nn.config import (
    NO_TEXTS,
    CellEncoderConfig,
    LangCellConfig,
    MatchingConfig,
    TextEncoderConfig,
)
from langcell.nn.empty_init import skip_init
from langcell.nn.text_encoder import TextEncoder
from pretrain.cells.mean_expression import TypeMeans
from pretrain.recipe.config import Recipe
from pretrain.run.gene_init import svd_gene_embeddings
from pretrain.run.warm_start import start_from
from pretrain.steps.text_lora import add_adapters

_N_SPECIAL = 3  # tokens: padding, mask and CLS


def build_model(
    recipe: Recipe,
    vocabulary: GeneVocabulary,
    means: Callable[[], TypeMeans],
    log: Callable[[str], None] = lambda line: None,
) -> LangCell:
    """Return an untrained model; its random weights depend on the seed alone.

    Parameters
    ----------
    recipe
        Checked recipe.
    vocabulary
        Genes that are tokens.
    means
        Returns the mean expression of each type, for gene embeddings initialised by SVD.
    log
        Called with a progress message at each stage.
    """
    sizes, text = recipe.model, recipe.text
    config = model_config(recipe, vocabulary.size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        tower = None if config.text.frozen else load_tower(config.text)
        model = LangCell(config, vocabulary, text_encoder=tower)
        if sizes.start_from:
            for line in start_from(model, sizes.start_from).lines():
                log(line)
        if text.train == "lora":
            assert model.text_encoder is not None
            add_adapters(model.text_encoder, rank=text.lora_rank, scale=text.lora_scale)
    if not sizes.start_from and sizes.init_gene_embeddings == "svd":
        embeddings = svd_gene_embeddings(
            means(), vocabulary, width=sizes.hidden_size, std=sizes.init_std, seed=recipe.seed
        )
        with torch.no_grad():
            model.cell_encoder.gene_embeddings[2 : vocabulary.n_genes + 2] = embeddings
    return model


def model_config(recipe: Recipe, vocab_size: int) -> LangCellConfig:
    """Return the model configuration of a recipe for a vocabulary size."""
    sizes = recipe.model
    return LangCellConfig(
        cell=CellEncoderConfig(
            kind=sizes.kind,
            vocab_size=vocab_size,
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
        text=_text_config(recipe),
        matching=_matching_config(recipe),
        embedding_dim=sizes.embedding_dim,
        max_genes=sizes.max_genes,
        logit_scale_init=math.log(1 / sizes.temperature),
    )


def _matching_config(recipe: Recipe) -> MatchingConfig:
    sizes = recipe.model
    if not recipe.losses.read_texts:
        return MatchingConfig()  # there is no head
    return MatchingConfig(
        kind=sizes.matching,
        n_layers=sizes.matching_layers,
        hidden_size=sizes.matching_hidden_size,
        intermediate_size=2 * sizes.matching_hidden_size,
        interaction=sizes.matching_interaction,
        dropout=sizes.dropout,
        attention_dropout=sizes.attention_dropout,
    )


def _text_config(recipe: Recipe) -> TextEncoderConfig:
    text, sizes = recipe.text, recipe.model
    if not recipe.losses.read_texts:
        return NO_TEXTS
    has_cross_attention = sizes.matching == "cross_attention"
    config = text_encoder_config(
        text.tower,
        frozen=text.train == "frozen",
        pooling=text.pooling or None,
        max_tokens=text.max_tokens,
        encoder_width=sizes.hidden_size if has_cross_attention else 0,
    )
    # A frozen tower has no dropout; in a trained one attention dropout would rule out packing.
    return config if config.frozen else replace(config, attention_dropout=0.0)


def count_parameters(recipe: Recipe, n_genes: int) -> dict[str, int]:
    """Count the weights of each part of a recipe's model."""
    config = model_config(recipe, n_genes + _N_SPECIAL)
    with skip_init():
        parts = dict(LangCell(config).named_children())
        tower = parts.pop("text_encoder", None)
        if recipe.losses.read_texts:
            parts[f"text_encoder ({recipe.text.train})"] = tower or TextEncoder(config.text)
    return {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
