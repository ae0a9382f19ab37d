"""The texts of a training step, precomputed by a frozen tower or encoded by a trained one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.model.langcell import LangCell
from langcell.nn.features import TextFeatures
from pretrain.parallel.gather import World


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTexts:
    """Pooled texts of a step before the projection, the same in all processes.

    Attributes
    ----------
    pooled
        Distinct texts of the cells, shape (n_texts, hidden).
    labels
        One wording per label of the ontology, (n_labels, hidden); empty if no loss reads them.
    """

    pooled: Tensor
    labels: Tensor

    def detached(self) -> "StepTexts":
        """Return the texts detached from the graph."""
        return StepTexts(pooled=self.pooled.detach(), labels=self.labels.detach())


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTokens:
    """Token ids of texts, for a trained tower.

    Attributes
    ----------
    input_ids, attention_mask
        Padded to the longest, both (n, t): first the text table, then the label wordings.
    n_texts
        Number of texts of the table.
    """

    input_ids: Tensor
    attention_mask: Tensor
    n_texts: int

    @classmethod
    def of(cls, model: LangCell, texts: tuple[str, ...], wordings: tuple[str, ...]) -> "TextTokens":
        """Tokenise the text table and the label wordings."""
        input_ids, mask = model.tokenize_texts([*texts, *wordings])
        return cls(input_ids=input_ids, attention_mask=mask, n_texts=len(texts))

    def encode(self, model: LangCell, rows: Tensor) -> TextFeatures:
        """Encode the given texts, trimmed to the longest of them."""
        mask = self.attention_mask[rows]
        width = int(mask.sum(dim=1).max())
        return model.encode_text(self.input_ids[rows, :width], mask[:, :width])

    def rows_of(
        self, texts: Tensor, labels: Tensor, *, with_texts: bool, with_labels: bool
    ) -> Tensor:
        """Return the rows of the texts that a step reads: those of cells, then those of labels."""
        kept_texts = texts if with_texts else texts[:0]
        kept_labels = labels + self.n_texts if with_labels else labels[:0]
        return torch.cat([kept_texts, kept_labels])


def rank_rows(rows: Tensor, world: World) -> Tensor:
    """Return the rows that this process encodes: the same number for all, by repeating some.

    >>> [rank_rows(torch.arange(5), World(rank=rank, size=2)).tolist() for rank in range(2)]
    [[0, 1, 2], [3, 4, 0]]
    """
    n_each = -(-len(rows) // world.size)
    places = torch.arange(world.rank * n_each, (world.rank + 1) * n_each, device=rows.device)
    return rows[places % max(1, len(rows))]
