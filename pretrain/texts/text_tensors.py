"""What the losses of every step know of the texts: their relations, and what a tower makes of them."""

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
    types: CellTypes,
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
        below=below,
    )
    if not losses.read_texts:
        say("no loss reads texts: no text tower is loaded, and none are shipped")
        return found
    return _with_texts(found, model, table, wordings, say, has_matching=bool(losses.matching))


def _with_texts(
    found: TextTensors,
    model: LangCell,
    table: TextTable,
    wordings: LabelTexts,
    say: Callable[[str], None],
    *,
    has_matching: bool,
) -> TextTensors:
    """Add the token ids of all texts for a trained tower, or what a frozen one makes of them."""
    n_each = f"{len(table.texts)} texts of the corpus, {len(wordings.texts)} of the ontology"
    if model.text_encoder is not None:
        say(f"tokenising {n_each}, which the text tower will encode as it learns")
        return replace(found, tokens=TextTokens.of(model, table.texts, wordings.texts))
    say(f"encoding {n_each}")
    found = replace(
        found,
        pooled=pool_cached(model, table.texts),
        labels=pool_cached(model, wordings.texts),
    )
    if not has_matching:  # it alone reads token states, which take long
        return found
    described = [table.texts[own[0]] for own in table.bare]
    return replace(found, templates=encode_templates(model, described))
