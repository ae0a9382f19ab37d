"""A second opinion on the best candidates: the matching head reads text and cell together."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch.nn import functional

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.cell_matcher import CellMatcher, PreparedText
from langcell.nn.features import CellFeatures
from zeroshot.annotation.text_states import TextStateCache
from zeroshot.scores.scores import Scores, fuse

_IN_MEMORY = 1024  # texts; one of 60 tokens takes 184 kB at the width of a BERT base


class Reranker:
    """Reorders the first candidates of each cell by whether the matching head sees a match.

    Parameters
    ----------
    model: with a matching head
    texts: what describes each candidate, in the order of the candidates
    k: how many candidates of each cell to look at
    weight: of the head's log-probability beside that of the similarity (`zeroshot.scores.scores.fuse`)
    cache: where the token states of texts are kept

    Raises
    ------
    ValueError
        If `k` is below two: one candidate has no order.
    """

    def __init__(
        self,
        model: LangCell,
        texts: Sequence[str],
        *,
        k: int,
        weight: float = 1.0,
        cache: TextStateCache | None = None,
    ) -> None:
        if k < 2:
            raise ValueError(f"reranking needs at least two candidates a cell, got {k}")
        self.model = model
        self.texts = tuple(texts)
        self.k = k
        self.weight = weight
        self.cache = cache or TextStateCache(model)
        self._matcher = CellMatcher(model)
        self._begun = lru_cache(maxsize=_IN_MEMORY)(self._begin)

    def rerank(self, scores: Scores, cells: CellFeatures) -> Scores:
        """Reorder the candidates of a batch of cells.

        Parameters
        ----------
        scores: from `zeroshot.scores.scores.best_scores`, a row for each cell
        cells: all states of the same cells, and perhaps padding rows after them
        """
        return fuse(scores, self.match(scores.candidates[:, : self.k], cells), weight=self.weight)

    def match(self, candidates: np.ndarray, cells: CellFeatures) -> np.ndarray:
        """Return the log-probability that each candidate describes its cell.

        What a cell gets depends on its own candidates alone.

        Parameters
        ----------
        candidates: rows of the texts, int, shape (n_cells, r)
        cells: states of the cells, at least n_cells rows

        Returns
        -------
        float64, shape (n_cells, r)
        """
        found = np.empty(candidates.shape, dtype=np.float64)
        with inference(self.model):
            for row, labels in enumerate(candidates.tolist()):
                texts = [self._begun(self.texts[label]) for label in labels]
                logits = self._matcher.match(self._matcher.read(cells, row), texts)  # (r, 2)
                found[row] = functional.log_softmax(logits.double(), dim=-1)[:, 1].cpu().numpy()
        return found

    def _begin(self, text: str) -> PreparedText:
        states = self.cache.get([text], width=self.cache.n_tokens(text))
        return self._matcher.begin(states)
