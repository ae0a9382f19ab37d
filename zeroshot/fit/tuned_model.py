"""A model during fine-tuning on labelled cells."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell.checkpoints.weight_changes import DOWN, UP
from langcell.model.embedder import Embedder
from langcell.model.langcell import LangCell
from langcell.nn.lora import LoRALinear, adapt_linears
from langcell.runtime.parameter_names import option
from zeroshot.fit.batches import CellBatch
from zeroshot.fit.tuning_recipes import TuningRecipe
from zeroshot.labels.candidates import CandidateSet, candidate_offsets

_RANK, _LORA_SCALE = 8, 2.0
_CELL_PARTS = ("cell_encoder.", "cell_projection.")
_ALL_PARTS = (*_CELL_PARTS, "text_encoder.", "text_projection.", "matching.")
# Not used for inference, and not fine-tuned.
_EXCLUDED = ("cell_encoder.masked_gene_head.",)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTexts:
    """Texts of the labels with their embeddings.

    Attributes
    ----------
    texts: descriptions of the labels
    features: text features, float32, unit norm, shape (n_labels, embedding_dim)
    offsets: offset subtracted from the similarities with each label, shape (n_labels,)
    """

    texts: tuple[str, ...]
    features: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, candidates: CandidateSet, features: np.ndarray, model: Embedder) -> "LabelTexts":
        """Build from candidates and their text features."""
        offsets = candidate_offsets(candidates, features, model)
        return cls(
            texts=candidates.texts,
            features=features,
            offsets=np.zeros(len(features), np.float32) if offsets is None else offsets,
        )


class TunedModel(nn.Module):
    """A partly trainable copy of a model, with a linear classifier on the cell features.

    The logits of the labels are

        scale * (f @ t - offsets + f @ w) + b

    where f are cell features, t text features of the labels (left out in a recipe without texts), and
    w and b are trained from zero. A recipe with `matches` has no w and b; it adds the log-softmax
    over labels of the match probability.

    Parameters
    ----------
    model: model to copy; it is not changed
    labels: labels to predict
    recipe: recipe that says what is trained
    """

    def __init__(self, model: LangCell, labels: LabelTexts, recipe: TuningRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        _check_trainable(model, recipe)
        names = _trainable_names(model, recipe)
        weights = model.state_dict()
        # Copy the trainable weights, so that the given model is not changed.
        self.model = model.changed({name: weights[name].cpu().numpy() for name in names})
        self.model.requires_grad_(False)
        self._trainable = {name: dict(self.model.named_parameters())[name] for name in names}
        for each in self._trainable.values():
            each.requires_grad_(True)
        self._adapters = self._add_adapters() if recipe.trainable == "adapters" else {}
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
        """Add LoRA adapters to the linear layers of the cell encoder and its projection."""
        model, found = self.model, {}
        for part, module in _linear_parts(model).items():
            for name, each in adapt_linears(module, rank=_RANK, scale=_LORA_SCALE).items():
                found[f"{part}.{name}"] = each
        return found

    def forward(self, batch: CellBatch) -> tuple[Tensor, Tensor | None]:
        """Return logits of the labels by similarity, and log-probabilities of a match or None.

        Both have shape (n_cells, n_labels).
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
        """Return the cross-entropy by similarity, plus that by matching if the recipe has it.

        Parameters
        ----------
        batch: labelled cells
        has_cells: True for labels with training cells, bool, shape (n_labels,). Other labels are
            masked out of the softmax, so that training does not push them down
        """
        parts = [each for each in self(batch) if each is not None]
        losses = [
            functional.cross_entropy(each.masked_fill(~has_cells, -torch.inf), batch.labels)
            for each in parts
        ]
        return torch.stack(losses).sum()

    def log_probabilities(self, batch: CellBatch) -> Tensor:
        """Return the log-probabilities of the labels, shape (n_cells, n_labels)."""
        by_similarity, by_match = self(batch)
        logits = by_similarity.log_softmax(dim=1)
        return (logits if by_match is None else logits + by_match).log_softmax(dim=1)

    def changes(self) -> dict[str, np.ndarray]:
        """Return the tuned weights and adapters, in the form that `LangCell.changed` reads."""
        found = {name: each.detach().cpu().numpy().copy() for name, each in self._trainable.items()}
        for name, each in self._adapters.items():
            found[name + UP] = (each.scale * each.up).detach().cpu().numpy().copy()
            found[name + DOWN] = each.down.detach().cpu().numpy().copy()
        return found

    def feature_weights(self) -> np.ndarray:
        """Return the classifier weights on features, float32, shape (n_labels, embedding_dim)."""
        return (self._scale * self.weights).detach().cpu().numpy().copy()


def _linear_parts(model: LangCell) -> dict[str, nn.Module]:
    parts = {
        f"cell_encoder.{name}": each
        for name, each in model.cell_encoder.named_children()
        if not f"cell_encoder.{name}.".startswith(_EXCLUDED)
    }
    return {**parts, "cell_projection": model.cell_projection}


def _trainable_names(model: LangCell, recipe: TuningRecipe) -> list[str]:
    """Return the names of the model's weights to train, adapters not included."""
    if recipe.trainable in ("adapters", "classes"):
        return []
    parts = _CELL_PARTS if recipe.trainable == "cells" else _ALL_PARTS
    return [
        name
        for name, _ in model.named_parameters()
        if name.startswith(parts) and not name.startswith(_EXCLUDED)
    ]


def _check_trainable(model: LangCell, recipe: TuningRecipe) -> None:
    """Raise ValueError if the model lacks what the recipe tunes."""
    if recipe.trainable == "everything" and model.text_encoder is None:
        raise ValueError(
            f"{option('kind', 'langcell', flag='--head')} tunes the text encoder too, and this model "
            "has frozen label embeddings instead: use a released LangCell that langcell convert "
            f"converted, or pass {option('kind', 'lora', flag='--head')} or "
            f"{option('kind', 'full', flag='--head')}"
        )
