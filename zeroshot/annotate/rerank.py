"""Rerank the best candidates with the matching head, which cross-encodes text and cell."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch.nn import functional

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.cell_matcher import CellMatcher, PreparedText
from langcell.nn.features import CellFeatures
from zeroshot.annotate.text_states import TextStateCache
from zeroshot.scores.scores import Scores, fuse

_IN_MEMORY = 1024  # cached texts; 60 tokens take 184 kB at the width of BERT-base


class Reranker:
    """Reranks the first candidates of each cell by the probability of a match.

    Parameters
    ----------
    model: model with a matching head
    texts: description of each candidate
    k: number of candidates to rerank per cell
    weight: weight of the match log-probability (`zeroshot.scores.scores.fuse`)
    cache: cache of the token states of texts

    Raises
    ------
    ValueError
        If `k` is below 2.
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
            raise ValueError(f"reranking needs at least 2 candidates per cell, got {k}")
        self.model = model
        self.texts = tuple(texts)
        self.k = k
        self.weight = weight
        self.cache = cache or TextStateCache(model)
        self._matcher = CellMatcher(model)
        self._prepared = lru_cache(maxsize=_IN_MEMORY)(self._prepare)

    def rerank(self, scores: Scores, cells: CellFeatures) -> Scores:
        """Rerank the candidates of a batch of cells.

        Parameters
        ----------
        scores: from `zeroshot.scores.scores.best_scores`, one row per cell
        cells: token states of the same cells, possibly followed by padding rows
        """
        return fuse(scores, self.match(scores.candidates[:, : self.k], cells), weight=self.weight)

    def match(self, candidates: np.ndarray, cells: CellFeatures) -> np.ndarray:
        """Return the log-probability that each candidate matches its cell.

        The result of a cell depends on its own candidates only.

        Parameters
        ----------
        candidates: indices of the texts, int, shape (n_cells, r)
        cells: token states of the cells, at least n_cells rows

        Returns
        -------
        float64, shape (n_cells, r)
        """
        found = np.empty(candidates.shape, dtype=np.float64)
        with inference(self.model):
            for row, labels in enumerate(candidates.tolist()):
                texts = [self._prepared(self.texts[label]) for label in labels]
                logits = self._matcher.match(self._matcher.read(cells, row), texts)  # (r, 2)
                found[row] = functional.log_softmax(logits.double(), dim=-1)[:, 1].cpu().numpy()
        return found

    def _prepare(self, text: str) -> PreparedText:
        states = self.cache.get([text], width=self.cache.n_tokens(text))
        return self._matcher.begin(states)
