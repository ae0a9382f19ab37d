"""A model while it learns from labelled cells."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell.checkpoints.weight_changes import DOWN, UP
from langcell.model.embedder import Embedder
from langcell.model.langcell import LangCell
from langcell.nn.lora import LoRALinear, adapt_linears
from zeroshot.fit.batches import CellBatch
from zeroshot.fit.tuning_recipes import TuningRecipe
from zeroshot.labels.candidates import CandidateSet, candidate_offsets

_RANK, _LORA_SCALE = 8, 2.0
_CELL_PARTS = ("cell_encoder.", "cell_projection.")
_ALL_PARTS = (*_CELL_PARTS, "text_encoder.", "text_projection.", "matching.")
# Inference reads no masked genes, and no one learns here to guess them.
_LEFT_OUT = ("cell_encoder.masked_gene_head.",)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTexts:
    """What the labels are to a model before it has seen a cell of them.

    Attributes
    ----------
    texts: that describe the labels
    features: of these, float32, unit norm, shape (n_labels, embedding_dim)
    offsets: taken off their similarities, shape (n_labels,)
    """

    texts: tuple[str, ...]
    features: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, candidates: CandidateSet, features: np.ndarray, model: Embedder) -> "LabelTexts":
        """Gather them for candidates with these features."""
        offsets = candidate_offsets(candidates, features, model)
        return cls(
            texts=candidates.texts,
            features=features,
            offsets=np.zeros(len(features), np.float32) if offsets is None else offsets,
        )


class TunedModel(nn.Module):
    """A model of which a part learns, and weights of labels on the features of cells.

    The logits of labels are

        scale * (f @ t - offsets + f @ w) + b

    with f the features of a cell, t those of the labels' texts (absent in a recipe that reads
    none), w and b new and zero at first. A recipe that matches has no w and b; it adds the
    logarithm of the softmax over labels of how probable a match is.

    Parameters
    ----------
    model: stays as it is
    labels: to be told apart
    recipe: says what learns
    """

    def __init__(self, model: LangCell, labels: LabelTexts, recipe: TuningRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        _check_learns(model, recipe)
        names = _learnt_names(model, recipe)
        weights = model.state_dict()
        # These are copied, so that the model which was given is not tuned by the way.
        self.model = model.changed({name: weights[name].cpu().numpy() for name in names})
        self.model.requires_grad_(False)
        self._learnt = {name: dict(self.model.named_parameters())[name] for name in names}
        for each in self._learnt.values():
            each.requires_grad_(True)
        self._adapters = self._add_adapters() if recipe.learns == "adapters" else {}
        shape, device = labels.features.shape, model.device
        self.weights = nn.Parameter(torch.zeros(shape, device=device))
        self.intercepts = nn.Parameter(torch.zeros(shape[0], device=device))
        self.weights.requires_grad_(not recipe.matches)
        self.intercepts.requires_grad_(not recipe.matches)
        self._scale = model.scale.item()
        self._offsets = torch.from_numpy(labels.offsets.astype(np.float32)).to(device)
        self._features = torch.from_numpy(labels.features).to(device)
        self._texts = self.model.tokenize_texts(labels.texts) if recipe.matches else None

    def _add_adapters(self) -> dict[str, LoRALinear]:
        """Adapt the linear layers of the cell encoder but for a masked-gene head."""
        model, found = self.model, {}
        for part, module in _linear_parts(model).items():
            for name, each in adapt_linears(module, rank=_RANK, scale=_LORA_SCALE).items():
                found[f"{part}.{name}"] = each
        return found

    def forward(self, batch: CellBatch) -> tuple[Tensor, Tensor | None]:
        """Return logits of the labels by similarity, and by matching where the recipe does.

        Both have shape (n_cells, n_labels); the second are log-probabilities of a match.
        """
        cells = self.model.encode_cell(
            batch.input_ids, batch.attention_mask, cls_only=not self.recipe.matches
        )
        if self._texts is None:
            similarity = cells.features @ self.weights.T
            if self.recipe.reads_texts:
                similarity = similarity + cells.features @ self._features.T - self._offsets
            return self._scale * similarity + self.intercepts, None
        texts = self.model.encode_text(*self._texts)
        n_cells, n_labels = len(cells.features), len(texts.features)
        matched = self.model.match(
            texts,
            cells,
            cell_rows=torch.arange(n_cells, device=self.model.device).repeat_interleave(n_labels),
            text_rows=torch.arange(n_labels, device=self.model.device).repeat(n_cells),
        )
        by_match = matched.log_softmax(dim=1)[:, 1].view(n_cells, n_labels)
        return self._scale * (cells.features @ texts.features.T), by_match

    def loss(self, batch: CellBatch, has_cells: Tensor) -> Tensor:
        """Return the cross-entropy of the labels, that by matching added to it.

        Parameters
        ----------
        batch: labelled cells
        has_cells: False for labels that no cell is learnt from, bool, shape (n_labels,). They do not
            compete, so that what no cell speaks against stays within reach of its text.
        """
        parts = [each for each in self(batch) if each is not None]
        losses = [
            functional.cross_entropy(each.masked_fill(~has_cells, -torch.inf), batch.labels)
            for each in parts
        ]
        return torch.stack(losses).sum()

    def log_probabilities(self, batch: CellBatch) -> Tensor:
        """Return those of the labels, shape (n_cells, n_labels)."""
        by_similarity, by_match = self(batch)
        logits = by_similarity.log_softmax(dim=1)
        return (logits if by_match is None else logits + by_match).log_softmax(dim=1)

    def changes(self) -> dict[str, np.ndarray]:
        """Return what became of the model's weights, as `LangCell.changed` reads it."""
        found = {name: each.detach().cpu().numpy().copy() for name, each in self._learnt.items()}
        for name, each in self._adapters.items():
            found[name + UP] = (each.scale * each.up).detach().cpu().numpy().copy()
            found[name + DOWN] = each.down.detach().cpu().numpy().copy()
        return found

    def feature_weights(self) -> np.ndarray:
        """Return weights of the labels on features, float32, shape (n_labels, embedding_dim)."""
        return (self._scale * self.weights).detach().cpu().numpy().copy()


def _linear_parts(model: LangCell) -> dict[str, nn.Module]:
    parts = {
        f"cell_encoder.{name}": each
        for name, each in model.cell_encoder.named_children()
        if not f"cell_encoder.{name}.".startswith(_LEFT_OUT)
    }
    return {**parts, "cell_projection": model.cell_projection}


def _learnt_names(model: LangCell, recipe: TuningRecipe) -> list[str]:
    """Name the weights that learn whole."""
    if recipe.learns in ("adapters", "classes"):
        return []
    parts = _CELL_PARTS if recipe.learns == "cells" else _ALL_PARTS
    return [
        name
        for name, _ in model.named_parameters()
        if name.startswith(parts) and not name.startswith(_LEFT_OUT)
    ]


def _check_learns(model: LangCell, recipe: TuningRecipe) -> None:
    """Refuse a model that has not what the recipe tunes."""
    if recipe.learns == "everything" and model.text_encoder is None:
        raise ValueError(
            "head langcell tunes the text encoder too, and that of this model is frozen: take a "
            "model that langcell convert made of a released LangCell, or --head lora or full"
        )
