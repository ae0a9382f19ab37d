"""Tensors of all texts for the losses: their relations to types and labels, and their encoding."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from langcell.model.langcell import LangCell
from langcell.nn.features import TextFeatures
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.recipe.config import Recipe
from pretrain.texts.label_texts import LabelTexts
from pretrain.texts.negatives import ancestor_targets, comparable_terms
from pretrain.texts.step_texts import TextTokens
from pretrain.texts.text_table import TextTable, encode_templates, pool_cached


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTensors:
    """Tensors of all texts, computed once.

    With a trained tower `tokens` replaces `pooled`, `templates` and `labels`, which are empty then,
    as they are if no loss reads texts.

    Attributes
    ----------
    pooled
        Pooled texts of the text table before the projection, shape (n_texts, hidden).
    term, aspects
        Type and aspect codes of each text, shapes (n_texts,) and (n_texts, 3).
    templates
        Token states of the template of each type; row i is type i.
    template_rows
        Row of `pooled` that holds the template of each type, shape (n_terms,).
    comparable
        True for types that are equal, or ancestor and descendant, shape (n_terms, n_terms).
    labels
        Pooled wordings of every label of the ontology, shape (n_wordings, hidden); see
        `LabelTexts`.
    descriptions
        Row of `labels` that holds the description of each label, shape (n_labels,).
    targets
        Target distribution over labels for each type, shape (n_terms, n_labels); see
        `ancestor_targets`.
    label_comparable
        True for labels equal to, ancestor or descendant of each type, shape (n_terms, n_labels).
    descendants
        1 where the row's label is the column's or a descendant of it, shape (n_labels, n_labels);
        None if no loss reads it.
    tokens
        Token ids of all texts for a trained tower; None for a frozen one.
    """

    pooled: Tensor
    term: Tensor
    aspects: Tensor
    templates: TextFeatures
    template_rows: Tensor
    comparable: Tensor
    labels: Tensor
    descriptions: Tensor
    targets: Tensor
    label_comparable: Tensor
    descendants: Tensor | None
    tokens: TextTokens | None = None


def build_text_tensors(
    model: LangCell,
    recipe: Recipe,
    ontology: Ontology,
    types: CellTypes,
    table: TextTable,
    wordings: LabelTexts,
    candidates: tuple[str, ...],
    log: Callable[[str], None],
) -> TextTensors:
    """Relate texts, types and labels, and encode the texts that losses read if the tower is frozen.

    Parameters
    ----------
    model
        Model with its text tower.
    recipe
        Checked recipe.
    ontology, types
        Ontology and cell types of the corpus.
    table, wordings, candidates
        Texts of the corpus, wordings of the labels, and the candidate labels.
    log
        Called with a progress message at each stage.
    """
    losses = recipe.losses
    descendants = None
    if losses.ontology_form == "subtree":
        rows = [ontology.index[term_id] for term_id in candidates]
        # Row: label, column: itself or an ancestor. 3,000 x 3,000, not cells x genes.
        descendants = torch.from_numpy(ontology.closure[rows][:, rows].toarray().astype(np.float32))
    targets = ancestor_targets(ontology, types.term_ids, candidates, losses.ancestor_decay)
    comparable = comparable_terms(ontology, types.term_ids, candidates)
    none = torch.empty(0)
    empty = TextFeatures(
        input_ids=none, attention_mask=none, states=none, pooled=none, features=none
    )
    found = TextTensors(
        pooled=none,
        term=torch.from_numpy(table.term),
        aspects=torch.from_numpy(table.aspects),
        templates=empty,
        template_rows=torch.tensor([own[0] for own in table.bare]),
        comparable=torch.from_numpy(comparable_terms(ontology, types.term_ids, types.term_ids)),
        labels=none,
        descriptions=torch.from_numpy(wordings.starts[:-1]),
        targets=torch.from_numpy(targets),
        label_comparable=torch.from_numpy(comparable),
        descendants=descendants,
    )
    if not losses.read_texts:
        log("no loss reads texts: no text tower is loaded, and no texts are saved with the model")
        return found
    return _with_texts(found, model, table, wordings, log, has_matching=bool(losses.matching))


def _with_texts(
    found: TextTensors,
    model: LangCell,
    table: TextTable,
    wordings: LabelTexts,
    log: Callable[[str], None],
    *,
    has_matching: bool,
) -> TextTensors:
    """Add the token ids of all texts for a trained tower, or their encoding by a frozen one."""
    n_each = f"{len(table.texts)} texts of the corpus, {len(wordings.texts)} of the ontology"
    if model.text_encoder is not None:
        log(f"tokenising {n_each}, which the text tower encodes in each step")
        return replace(found, tokens=TextTokens.of(model, table.texts, wordings.texts))
    log(f"encoding {n_each}")
    found = replace(
        found,
        pooled=pool_cached(model, table.texts),
        labels=pool_cached(model, wordings.texts),
    )
    if not has_matching:  # only matching reads token states, which take long
        return found
    described = [table.texts[own[0]] for own in table.bare]
    return replace(found, templates=encode_templates(model, described))
