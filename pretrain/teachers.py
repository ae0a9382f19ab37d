"""Trained models whose joint opinion a student learns (distillation)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.genes import GeneVocabulary
from langcell.model import LangCell


@dataclass(frozen=True, kw_only=True, eq=False)
class Teachers:
    """Models over one vocabulary, with what each makes of the labels.

    Attributes
    ----------
    models
        In evaluation mode, without gradients.
    labels
        Features of all labels by each model, each (n_labels, d).
    """

    models: tuple[LangCell, ...]
    labels: tuple[Tensor, ...]

    @property
    def max_genes(self) -> int:
        """Genes of a cell that the widest reader among them reads."""
        return max(model.config.max_genes for model in self.models)

    @torch.no_grad()
    def probabilities(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the softmax over labels of the mean logits, shape (n_cells, n_labels).

        Parameters
        ----------
        input_ids, attention_mask
            CLS and up to `max_genes` gene tokens, shape (n_cells, t).
        """
        total: Tensor | float = 0.0
        for model, labels in zip(self.models, self.labels, strict=True):
            width = model.config.max_genes + 1
            cells = model.encode_cell(
                input_ids[:, :width], attention_mask[:, :width], cls_only=True
            )
            total = total + model.scale * cells.features @ labels.T
        assert isinstance(total, Tensor)
        return (total / len(self.models)).softmax(dim=1)


def load_teachers(
    names: Sequence[str], vocabulary: GeneVocabulary, descriptions: Tensor
) -> Teachers:
    """Load the teachers of a run.

    Parameters
    ----------
    names
        Checkpoints, as `LangCell.from_pretrained` takes them.
    vocabulary
        Of the student.
    descriptions
        Pooled description of each label, shape (n_labels, text hidden).

    Raises
    ------
    ValueError
        If a teacher reads other genes than the student.
    """
    models = tuple(LangCell.from_pretrained(name).requires_grad_(False).eval() for name in names)
    for name, model in zip(names, models, strict=True):
        if model.genes.ensembl_ids != vocabulary.ensembl_ids:
            raise ValueError(
                f"teacher {name} reads {model.genes.n_genes} genes, the student "
                f"{vocabulary.n_genes} or others; train both on the same sources with the same "
                "vocabulary section"
            )
    with torch.no_grad():
        labels = tuple(model.project_text(descriptions) for model in models)
    return Teachers(models=models, labels=labels)
