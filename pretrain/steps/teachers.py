"""Teachers for distillation: trained models whose mean prediction a student learns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.genes.vocabulary import GeneVocabulary
from langcell.model.langcell import LangCell


@dataclass(frozen=True, kw_only=True, eq=False)
class Teachers:
    """Ensemble of teacher models over one vocabulary, with their label features.

    Attributes
    ----------
    models
        Models in evaluation mode, without gradients.
    labels
        Label features of each model, each (n_labels, d).
    trained
        Column of each training type among the labels, shape (n_terms,).
    linear_weight
        Weight of the linear teacher's logits, added to the mean of the models'.
    """

    models: tuple[LangCell, ...]
    labels: tuple[Tensor, ...]
    trained: Tensor
    linear_weight: float = 0.0

    @property
    def max_genes(self) -> int:
        """Maximum number of genes per cell over all teachers."""
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
            Logits of the linear teacher over the training types, shape (n_cells, n_terms). They
            redistribute probability among these types; their sum stays the same.
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
        Vocabulary of the student.
    descriptions
        Pooled description of each label, shape (n_labels, text hidden).
    trained, linear_weight
        As in `Teachers`.

    Raises
    ------
    ValueError
        If a teacher has another vocabulary than the student, or a text tower of its own.
    """
    models = tuple(LangCell.from_pretrained(name).requires_grad_(False).eval() for name in names)
    for name, model in zip(names, models, strict=True):
        if model.genes.ensembl_ids != vocabulary.ensembl_ids:
            raise ValueError(
                f"teacher {name} has another vocabulary ({model.genes.n_genes} genes) than the student "
                f"({vocabulary.n_genes}); train both on the same sources with the same vocabulary "
                "section"
            )
        if model.text_encoder is not None:
            raise ValueError(
                f"teacher {name} has a trained text tower, but labels are encoded by the student's: use "
                "a teacher that was trained with text.train: frozen"
            )
    with torch.no_grad():
        labels = tuple(model.project_text(descriptions) for model in models)
    return Teachers(
        models=models,
        labels=labels,
        trained=torch.tensor(trained, dtype=torch.int64),
        linear_weight=linear_weight,
    )
