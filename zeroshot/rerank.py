"""A second opinion on the best candidates: the matching head reads text and cell together."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from langcell.bert import inference
from langcell.features import CellFeatures
from langcell.model import LangCell
from zeroshot.scores import Scores, fuse
from zeroshot.text_states import TextStateCache

# Pairs go through the head in batches of one shape, and a text is padded to the next of these
# widths: a pair has the same score whichever pairs stand beside it.
PAIRS = 64
_WIDTH_STEP = 32


class Reranker:
    """Reorders the first candidates of each cell by whether the matching head sees a match.

    Parameters
    ----------
    model: with a matching head
    texts: what describes each candidate, in the order of the candidates
    k: how many candidates of each cell to look at
    weight: of the head's log-probability beside that of the similarity (`zeroshot.scores.fuse`)
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

    def rerank(self, scores: Scores, cells: CellFeatures) -> Scores:
        """Reorder the candidates of a batch of cells.

        Parameters
        ----------
        scores: from `zeroshot.scores.best_scores`, a row for each cell
        cells: all states of the same cells, and perhaps padding rows after them
        """
        return fuse(scores, self.match(scores.candidates[:, : self.k], cells), weight=self.weight)

    def match(self, candidates: np.ndarray, cells: CellFeatures) -> np.ndarray:
        """Return the log-probability that each candidate describes its cell.

        Parameters
        ----------
        candidates: rows of the texts, int, shape (n_cells, r)
        cells: states of the cells, at least n_cells rows

        Returns
        -------
        float64, shape (n_cells, r)
        """
        by_width: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for cell, rank in np.ndindex(*candidates.shape):
            n_tokens = self.cache.n_tokens(self.texts[candidates[cell, rank]])
            by_width[-(-n_tokens // _WIDTH_STEP) * _WIDTH_STEP].append((cell, rank))
        found = np.empty(candidates.shape, dtype=np.float64)
        with inference(self.model), inference(self.model.matching):
            for width, pairs in sorted(by_width.items()):
                for start in range(0, len(pairs), PAIRS):
                    rows, ranks = np.array(pairs[start : start + PAIRS]).T
                    found[rows, ranks] = self._batch(candidates[rows, ranks], rows, cells, width)
        return found

    def _batch(
        self, labels: np.ndarray, rows: np.ndarray, cells: CellFeatures, width: int
    ) -> np.ndarray:
        """Score up to PAIRS pairs of a candidate and a cell, float64, shape (n_pairs,)."""
        distinct, text_rows = np.unique(labels, return_inverse=True)
        texts = self.cache.get([self.texts[label] for label in distinct], width=width)
        logits = self.model.match(
            texts, cells, text_rows=self._padded(text_rows), cell_rows=self._padded(rows)
        )  # (PAIRS, 2)
        log_probabilities = functional.log_softmax(logits.double(), dim=-1)[:, 1]
        return log_probabilities[: len(labels)].cpu().numpy()

    def _padded(self, rows: np.ndarray) -> Tensor:
        padded = np.zeros(PAIRS, dtype=np.int64)
        padded[: len(rows)] = rows
        return torch.from_numpy(padded).to(self.model.device)
