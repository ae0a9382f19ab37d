"""The labels saved with a checkpoint, as the current text tower encodes them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from langcell.checkpoints.label_embeddings import LabelEmbeddings
from langcell.model.langcell import LangCell


@dataclass(frozen=True, kw_only=True, eq=False)
class BundledLabels:
    """Candidate cell types and their descriptions.

    Attributes
    ----------
    term_ids, texts
        One id and one description per label.
    release
        Release of the ontology.
    pooled
        Pooled outputs of a frozen tower for the texts, shape (n_labels, hidden); None if it is trained.
    """

    term_ids: tuple[str, ...]
    texts: tuple[str, ...]
    release: str
    pooled: Tensor | None

    def pool(self, model: LangCell) -> Tensor:
        """Return the pooled texts before the projection, shape (n_labels, hidden)."""
        if self.pooled is not None:
            return self.pooled
        return torch.from_numpy(model.pool_texts(self.texts))

    def embeddings(self, model: LangCell) -> LabelEmbeddings:
        """Return the label embeddings to save in the checkpoint."""
        return LabelEmbeddings(
            term_ids=self.term_ids,
            texts=self.texts,
            pooled=self.pool(model).cpu().numpy().astype(np.float16),
            release=self.release,
        )
