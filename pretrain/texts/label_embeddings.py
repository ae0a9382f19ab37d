"""The labels that travel with a checkpoint, as the text tower has them at the time."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from langcell.checkpoints.label_embeddings import LabelEmbeddings
from langcell.model.langcell import LangCell


@dataclass(frozen=True, kw_only=True, eq=False)
class BundledLabels:
    """Cell types that can be called, and the description of each.

    Attributes
    ----------
    term_ids, texts
        One id and one description a label.
    release
        Release of the ontology.
    pooled
        What a frozen tower makes of the texts, shape (n_labels, hidden); None where it is trained.
    """

    term_ids: tuple[str, ...]
    texts: tuple[str, ...]
    release: str
    pooled: Tensor | None

    def pool(self, model: LangCell) -> Tensor:
        """Return the texts before the projection, shape (n_labels, hidden)."""
        if self.pooled is not None:
            return self.pooled
        return torch.from_numpy(model.pool_texts(self.texts))

    def embeddings(self, model: LangCell) -> LabelEmbeddings:
        """Return the labels as they are written."""
        return LabelEmbeddings(
            term_ids=self.term_ids,
            texts=self.texts,
            pooled=self.pool(model).cpu().numpy().astype(np.float16),
            release=self.release,
        )
