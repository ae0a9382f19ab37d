"""Text-to-cell and cell-to-text retrieval: recall at k and mean reciprocal rank, with chance level.

Duplicate texts are removed first: each distinct text is one query, or one gallery entry.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import hypergeom, rankdata

from benchmarks.scoring.search_scores import FileScores, right_cells
from ontology.graph import Ontology
from zeroshot.retrieval.background import Background

K = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall at each of `K`, and mean reciprocal rank of the first hit, averaged over queries."""

    recall: tuple[float, ...]
    mrr: float
    chance_recall: tuple[float, ...]
    chance_mrr: float


def retrieve(scores: np.ndarray, is_right: np.ndarray, is_known: np.ndarray) -> Retrieval:
    """Score the rankings of a gallery by queries.

    Parameters
    ----------
    scores: scores of the gallery for each query, shape (n_queries, n_gallery)
    is_right: correct entries, of the same shape; every query has at least one
    is_known: entries to rank; whether the others are correct is unknown
    """
    first, n_right, n_ranked = [], [], []
    for row, right, known in zip(scores, is_right, is_known, strict=True):
        ranks = rankdata(-row[known], method="min")  # ties get the best rank
        first.append(ranks[right[known]].min())
        n_right.append(int(right[known].sum()))
        n_ranked.append(int(known.sum()))
    ranks = np.array(first)
    return Retrieval(
        recall=tuple(float((ranks <= k).mean()) for k in K),
        mrr=float((1 / ranks).mean()),
        chance_recall=tuple(_chance_recall(n_ranked, n_right, k) for k in K),
        chance_mrr=float(
            np.mean([chance_mrr(n, right) for n, right in zip(n_ranked, n_right, strict=True)])
        ),
    )


def _chance_recall(n_ranked: Sequence[int], n_right: Sequence[int], k: int) -> float:
    pairs = zip(n_ranked, n_right, strict=True)
    return float(np.mean([1 - hypergeom.pmf(0, n, right, min(k, n)) for n, right in pairs]))


def chance_mrr(n_ranked: int, n_right: int) -> float:
    """Return the expected reciprocal rank of the first correct entry in a random order.

    >>> chance_mrr(2, 1)
    0.75
    """
    ranks = np.arange(1, n_ranked - n_right + 2)
    # Cumulative product: probability that the first correct entry has at least a given rank.
    factors = (n_ranked - ranks[:-1] + 1 - n_right) / (n_ranked - ranks[:-1] + 1)
    later = np.concatenate([[1.0], np.cumprod(factors)])
    at = later - np.append(later[1:], 0.0)
    return float((at / ranks).sum())


def text_to_cell(
    files: Sequence[FileScores], background: Background, ontology: Ontology
) -> Retrieval:
    """Rank the cells of all studies for each distinct text of their types."""
    closure = ontology.closure_of(background.ids)
    present = np.unique(np.concatenate([of.present for of in files]))
    present = present[np.unique([background.texts[each] for each in present], return_index=True)[1]]
    labels = np.concatenate([of.labels for of in files])
    is_right, is_known = right_cells(closure, labels, present)
    scores = np.concatenate([of.scores[:, present] for of in files]).T
    return retrieve(scores, is_right.T, is_known.T)


def cell_to_text(of: FileScores, background: Background) -> Retrieval:
    """Rank all distinct descriptions for each cell of a file by similarity."""
    texts, first, place = np.unique(background.texts, return_index=True, return_inverse=True)
    is_right = place[of.labels][:, None] == np.arange(len(texts))
    return retrieve(of.cosine[:, first], is_right, np.ones_like(is_right))


def print_retrieval(title: str, studies: Sequence[Sequence[Retrieval]]) -> dict[str, float]:
    """Print and return means over the files of each study, then over studies."""
    flat = pd.DataFrame(
        pd.DataFrame([_flat(each) for each in files]).mean() for files in studies
    ).mean()
    print(
        f"{title}  "
        + "  ".join(
            f"{name} {flat[name]:.4f} (chance {flat[f'chance {name}']:.4f})"
            for name in (*(f"R@{k}" for k in K), "MRR")
        ),
        flush=True,
    )
    return {name: round(float(value), 5) for name, value in flat.items()}


def _flat(found: Retrieval) -> dict[str, float]:
    values = asdict(found)
    named = {f"R@{k}": value for k, value in zip(K, values["recall"], strict=True)}
    chance = {f"chance R@{k}": v for k, v in zip(K, values["chance_recall"], strict=True)}
    return {**named, "MRR": found.mrr, **chance, "chance MRR": found.chance_mrr}
