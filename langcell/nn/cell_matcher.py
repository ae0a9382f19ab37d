"""Score one cell against many texts with the matching head, without repeated computation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from langcell.nn.bert import Attended
from langcell.nn.features import CellFeatures, TextFeatures
from langcell.nn.matching_heads import FusionMatching
from langcell.nn.two_tower import TwoTower

# Texts are batched by length, rounded up to this step, with at most so many in a batch.
_WIDTH_STEP = 8
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedText:
    """A text after the first self-attention of the matching head, which needs no cell.

    Attributes
    ----------
    states
        States after the first self-attention, shape (t, h).
    features
        Embedding of the text, unit norm, shape (embedding_dim,).
    """

    states: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedCell:
    """A cell prepared for the matching head.

    Attributes
    ----------
    attended
        States without padding, and their keys and values for every block.
    features
        Embedding of the cell, unit norm, shape (embedding_dim,).
    """

    attended: Attended
    features: Tensor


class CellMatcher:
    """Score a cell against many texts; the result equals `LangCell.match` on pairs, but is faster.

    The keys and values of a cell are projected once per block and shared by all texts. The first
    self-attention of a text does not depend on the cell and is computed once, by `begin`. Texts of
    similar length are batched. If the head reads only position 0, the last block computes only
    that. Padding of the cell is removed.

    Parameters
    ----------
    model
        A model with a matching head; use it inside `langcell.nn.bert.inference`.
    """

    def __init__(self, model: TwoTower) -> None:
        self.model = model
        self._fusion = model.matching if isinstance(model.matching, FusionMatching) else None
        self._stack = (self._fusion or model.text_tower()).stack

    def begin(self, text: TextFeatures) -> PreparedText:
        """Prepare one text, from `LangCell.encode_text`; this does not depend on a cell."""
        if self._fusion is not None:
            states = self._fusion.enter(text.states)
        else:
            states = self.model.text_tower().embeddings(text.input_ids)
        begun = self._stack.begin(states, text.attention_mask)  # (1, t, h)
        return PreparedText(states=begun[0], features=text.features[0])

    def read(self, cells: CellFeatures, row: int) -> PreparedCell:
        """Prepare one cell of a batch, from `LangCell.encode_cell` with all states."""
        states = cells.states[row]
        if cells.attention_mask is not None:
            states = states[: int(cells.attention_mask[row].sum())]
        states = states[None]  # (1, t, width)
        attended = Attended(states=states, keys_values=self._stack.project(states))
        return PreparedCell(attended=attended, features=cells.features[row])

    def match(self, cell: PreparedCell, texts: Sequence[PreparedText]) -> Tensor:
        """Return the logits of every text with the cell, (n_texts, 2); index 1 is 'match'."""
        logits = torch.empty(len(texts), 2, device=self.model.device)
        for rows in _groups([len(text.states) for text in texts]):
            logits[rows] = self._match_group(cell, [texts[row] for row in rows])
        return logits

    def _match_group(self, cell: PreparedCell, texts: Sequence[PreparedText]) -> Tensor:
        states = pad_sequence([text.states for text in texts], batch_first=True)  # (n, t, h)
        lengths = torch.tensor([len(text.states) for text in texts], device=states.device)
        mask = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        real = None if bool(mask.all()) else mask
        fusion = self._fusion
        first_only = fusion is None or fusion.first_only
        states = self._stack(
            states, real, attended=cell.attended, first_only=first_only, begun=True
        )
        if fusion is None:
            logits: Tensor = self.model.matching(states[:, 0])
            return logits
        product = torch.stack([text.features for text in texts]) * cell.features
        return fusion.decide(states, real, product)


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of texts of similar length.

    >>> list(_groups([9, 20, 10, 16]))
    [[0, 2, 3], [1]]
    """
    by_width: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_width.setdefault(-(-length // _WIDTH_STEP), []).append(row)
    for _, rows in sorted(by_width.items()):
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            yield rows[start : start + _TEXTS_AT_ONCE]
