"""Trained models whose joint opinion a student learns (distillation)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell


@dataclass(frozen=True, kw_only=True, eq=False)
class Teachers:
    """Models over one vocabulary, with what each makes of the labels.

    Attributes
    ----------
    models
        In evaluation mode, without gradients.
    labels
        Features of all labels by each model, each (n_labels, d).
    trained
        Column of each training type among the labels, shape (n_terms,).
    linear_weight
        Of the linear teacher's logits beside the mean of the models'.
    """

    models: tuple[LangCell, ...]
    labels: tuple[Tensor, ...]
    trained: Tensor
    linear_weight: float = 0.0

    @property
    def max_genes(self) -> int:
        """Genes of a cell that the widest reader among them reads."""
        return max(model.config.max_genes for model in self.models)

    @torch.no_grad()
    def probabilities(
        self, input_ids: Tensor, attention_mask: Tensor, linear: Tensor | None = None
    ) -> Tensor:
        """Return the softmax over labels of the mean logits, shape (n_cells, n_labels).

        Parameters
        ----------
        input_ids, attention_mask
            CLS and up to `max_genes` gene tokens, shape (n_cells, t).
        linear
            Logits of the training types by the linear teacher, shape (n_cells, n_terms). It shifts
            probability among them; what they hold together, against types without data, stays.
        """
        total: Tensor | float = 0.0
        for model, labels in zip(self.models, self.labels, strict=True):
            width = model.config.max_genes + 1
            cells = model.encode_cell(
                input_ids[:, :width], attention_mask[:, :width], cls_only=True
            )
            total = total + model.scale * cells.features @ labels.T
        assert isinstance(total, Tensor)
        logits = total / len(self.models)  # (n_cells, n_labels)
        if linear is not None:
            own = logits[:, self.trained]  # (n_cells, n_terms)
            joint = own + self.linear_weight * linear
            held = own.logsumexp(dim=1, keepdim=True) - joint.logsumexp(dim=1, keepdim=True)
            logits[:, self.trained] = joint + held
        return logits.softmax(dim=1)


def load_teachers(
    names: Sequence[str],
    vocabulary: GeneVocabulary,
    descriptions: Tensor,
    trained: Sequence[int],
    *,
    linear_weight: float = 0.0,
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
    trained, linear_weight
        As in `Teachers`.

    Raises
    ------
    ValueError
        If a teacher reads other genes than the student, or texts through another tower.
    """
    models = tuple(LangCell.from_pretrained(name).requires_grad_(False).eval() for name in names)
    for name, model in zip(names, models, strict=True):
        if model.genes.ensembl_ids != vocabulary.ensembl_ids:
            raise ValueError(
                f"teacher {name} reads {model.genes.n_genes} genes, the student "
                f"{vocabulary.n_genes} or others; train both on the same sources with the same "
                "vocabulary section"
            )
        if model.text_encoder is not None:
            raise ValueError(
                f"teacher {name} has a text tower of its own, and labels are encoded by that of the "
                "student: name a teacher that was trained with text.train: frozen"
            )
    with torch.no_grad():
        labels = tuple(model.project_text(descriptions) for model in models)
    return Teachers(
        models=models,
        labels=labels,
        trained=torch.tensor(trained, dtype=torch.int64),
        linear_weight=linear_weight,
    )
