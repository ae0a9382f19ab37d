"""The texts that a step reads, as a frozen tower left them or as a trained one encodes them now."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langcell.model.langcell import LangCell
from langcell.nn.features import TextFeatures
from pretrain.parallel.gather import World


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTexts:
    """Texts of a step before the projection, as all processes have them.

    Attributes
    ----------
    pooled
        Distinct texts of the cells, shape (n_texts, hidden).
    labels
        A wording of each label of the ontology, (n_labels, hidden); empty where no loss reads them.
    """

    pooled: Tensor
    labels: Tensor

    def detached(self) -> "StepTexts":
        """Return the same without a graph."""
        return StepTexts(pooled=self.pooled.detach(), labels=self.labels.detach())


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTokens:
    """Token ids of texts, for a tower that is trained.

    Attributes
    ----------
    input_ids, attention_mask
        Padded to the longest, both (n, t): first the text table, then the wordings of the labels.
    n_texts
        Texts of the table.
    """

    input_ids: Tensor
    attention_mask: Tensor
    n_texts: int

    @classmethod
    def of(cls, model: LangCell, texts: tuple[str, ...], wordings: tuple[str, ...]) -> "TextTokens":
        """Tokenise the text table and the wordings of the labels."""
        input_ids, mask = model.tokenize_texts([*texts, *wordings])
        return cls(input_ids=input_ids, attention_mask=mask, n_texts=len(texts))

    def encode(self, model: LangCell, rows: Tensor) -> TextFeatures:
        """Encode some texts, cut to the longest of them."""
        mask = self.attention_mask[rows]
        width = int(mask.sum(dim=1).max())
        return model.encode_text(self.input_ids[rows, :width], mask[:, :width])

    def rows_of(
        self, texts: Tensor, labels: Tensor, *, with_texts: bool, with_labels: bool
    ) -> Tensor:
        """Return the rows of the texts that a step reads, those of cells before those of labels."""
        kept_texts = texts if with_texts else texts[:0]
        kept_labels = labels + self.n_texts if with_labels else labels[:0]
        return torch.cat([kept_texts, kept_labels])


def own_share(rows: Tensor, world: World) -> Tensor:
    """Return the rows that this process encodes; every process has as many, some of them twice.

    >>> [own_share(torch.arange(5), World(rank=rank, size=2)).tolist() for rank in range(2)]
    [[0, 1, 2], [3, 4, 0]]
    """
    n_each = -(-len(rows) // world.size)
    places = torch.arange(world.rank * n_each, (world.rank + 1) * n_each, device=rows.device)
    return rows[places % max(1, len(rows))]
