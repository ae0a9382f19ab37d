"""What the losses of every step know of the texts: their relations, and what a tower makes of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from langcell.features import TextFeatures
from langcell.model import LangCell
from ontology.graph import Ontology
from pretrain.config import Recipe
from pretrain.label_texts import LabelTexts
from pretrain.negatives import ancestor_targets, comparable_terms
from pretrain.step_texts import TextTokens
from pretrain.texts import TextTable, encode_templates, pool_cached
from pretrain.trained_types import TrainedTypes


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTensors:
    """What is known of every text, and what a frozen tower makes of each, computed once.

    Where the tower is trained, `tokens` stand in the place of `pooled`, `templates` and `labels`,
    and where no loss reads texts those are empty.

    Attributes
    ----------
    pooled
        Texts of the text table before the projection, shape (n_texts, hidden).
    term, aspects
        Type and aspect codes of each text, shapes (n_texts,) and (n_texts, 3).
    templates
        Token states of the template of each type; row i belongs to type i.
    template_rows
        Row of `pooled` that holds the template of each type, shape (n_terms,).
    comparable
        Types that are equal or ancestor and descendant, shape (n_terms, n_terms).
    labels
        Pooled wordings of every label of the ontology, shape (n_wordings, hidden); see
        `LabelTexts`.
    descriptions
        Row of `labels` that holds the description of each label, shape (n_labels,).
    targets
        How true each label is of each type, shape (n_terms, n_labels); see `ancestor_targets`.
    label_comparable
        Labels that are equal, ancestor or descendant of each type, shape (n_terms, n_labels).
    below
        1 where the row's label is the column's or a descendant, shape (n_labels, n_labels); None
        where no loss reads it.
    tokens
        Of all texts, for a tower that is trained; None for a frozen one.
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
    below: Tensor | None
    tokens: TextTokens | None = None


def build_text_tensors(
    model: LangCell,
    recipe: Recipe,
    ontology: Ontology,
    types: TrainedTypes,
    table: TextTable,
    wordings: LabelTexts,
    candidates: tuple[str, ...],
    say: Callable[[str], None],
) -> TextTensors:
    """Relate texts, types and labels; let a frozen tower encode the texts that losses read.

    Parameters
    ----------
    model
        With its text tower.
    recipe
        Checked recipe.
    ontology, types
        Of the corpus.
    table, wordings, candidates
        Its texts, those of the labels, and the labels.
    say
        Takes a line at each stage.
    """
    losses = recipe.losses
    below = None
    if losses.ontology_form == "subtree":
        rows = [ontology.index[term_id] for term_id in candidates]
        # Row: label, column: itself or an ancestor. 3,000 x 3,000, not cells x genes.
        below = torch.from_numpy(ontology.closure[rows][:, rows].toarray().astype(np.float32))
    none = torch.empty(0)
    pooled, labels, tokens = none, none, None
    templates = TextFeatures(
        input_ids=none, attention_mask=none, states=none, pooled=none, features=none
    )
    n_each = f"{len(table.texts)} texts of the corpus, {len(wordings.texts)} of the ontology"
    if not losses.read_texts:
        say("no loss reads texts: no text tower is loaded, and none are shipped")
    elif model.text_encoder is not None:
        say(f"tokenising {n_each}, which the text tower will encode as it learns")
        tokens = TextTokens.of(model, table.texts, wordings.texts)
    else:
        say(f"encoding {n_each}")
        pooled, labels = pool_cached(model, table.texts), pool_cached(model, wordings.texts)
        if losses.matching:  # token states take long, and matching alone reads them
            described = [table.texts[own[0]] for own in table.bare]
            templates = encode_templates(model, described)
    comparable = comparable_terms(ontology, types.term_ids, candidates)
    return TextTensors(
        pooled=pooled,
        term=torch.from_numpy(table.term),
        aspects=torch.from_numpy(table.aspects),
        templates=templates,
        template_rows=torch.tensor([own[0] for own in table.bare]),
        comparable=torch.from_numpy(comparable_terms(ontology, types.term_ids, types.term_ids)),
        labels=labels,
        descriptions=torch.from_numpy(wordings.starts[:-1]),
        targets=torch.from_numpy(
            ancestor_targets(ontology, types.term_ids, candidates, losses.ancestor_decay)
        ),
        label_comparable=torch.from_numpy(comparable),
        below=below,
        tokens=tokens,
    )
