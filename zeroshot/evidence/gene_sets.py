"""Rank genes by how well they fit a gene set, from the gene embeddings of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from langcell.genes.gene_table import GeneTable
from langcell.model.langcell import LangCell
from langcell.runtime.keywords import as_list, public
from langcell.runtime.short_table import ShortTable
from langcell.runtime.threads import one_blas_thread

if TYPE_CHECKING:
    import pandas as pd

_C = 1.0  # inverse penalty; not tuned
_FOLDS = 5
_MIN_GENES = 3


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RankedGenes(ShortTable):
    """The genes of a model, those most like a set first.

    Attributes
    ----------
    table: one row per gene with `gene`, `ensembl_id`, `score` (0 to 1) and `is_given`, best first
    auroc: AUROC of held-out scores, genes of the set against all others
    unknown: names in the set that match no gene of the model
    """

    table: "pd.DataFrame"
    auroc: float
    unknown: tuple[str, ...]

    def heading(self) -> str:
        """Return how many genes were ranked, and how well given genes are told from others."""
        return f"{len(self.table):,} genes ranked; AUROC of held-out given genes {self.auroc:.3f}"

    def summary(self) -> "pd.DataFrame":
        """Return the table, best gene first."""
        return self.table


@public
def rank_genes(
    genes: str | Sequence[str], *, model: "LangCell | str | Path" = "mini-fast"
) -> RankedGenes:
    """Rank all genes of a model by how well they fit a gene set.

    A logistic regression on the gene embeddings separates the given genes from all others. Each
    gene is scored by cross-validation, so scores of given and other genes are comparable. The other
    genes may belong to the set too: use the score to rank, not as a probability of membership.

    Parameters
    ----------
    genes: symbols or Ensembl ids of the set
    model: a model, or the name, folder or hub id of one

    Raises
    ------
    ValueError
        If the model has fewer than three of the genes.
    OSError
        If there is no such model.

    Examples
    --------
    >>> import langcell as lc
    >>> lc.rank_genes(["CD3D", "CD3E", "CD3G", "TRAC"])  # doctest: +SKIP
    """
    import pandas as pd

    if not isinstance(model, LangCell):
        model = LangCell.from_pretrained(model)
    names = list(dict.fromkeys(each.strip() for each in as_list(genes) if each.strip()))
    rows, unknown = _rows(names, model)
    if len(rows) < _MIN_GENES:
        raise ValueError(
            f"a set needs at least {_MIN_GENES} genes that the model knows, got {len(rows)} of "
            f"{len(names)}; pass symbols or Ensembl ids of human genes"
        )
    is_given = np.zeros(model.genes.n_genes, dtype=bool)
    is_given[rows] = True
    scores = membership(gene_vectors(model), is_given)
    table = pd.DataFrame(
        {
            "gene": model.genes.symbols,
            "ensembl_id": model.genes.ensembl_ids,
            "score": scores.round(5),
            "is_given": is_given,
        }
    )
    return RankedGenes(
        table=table.sort_values("score", ascending=False, kind="stable", ignore_index=True),
        auroc=float(roc_auc_score(is_given, scores)),
        unknown=unknown,
    )


def gene_vectors(model: LangCell) -> np.ndarray:
    """Return the embedding of each gene of a model, float64, shape (n_genes, width)."""
    embeddings = model.cell_encoder.gene_embeddings.detach().cpu().double().numpy()
    return embeddings[model.genes.gene_tokens]


def membership(vectors: np.ndarray, is_given: np.ndarray) -> np.ndarray:
    """Score each gene with a classifier that was fitted without it (cross-validation).

    Parameters
    ----------
    vectors: gene embeddings, shape (n_genes, width)
    is_given: True for genes of the set (at least two), shape (n_genes,)

    Returns
    -------
    float64, shape (n_genes,)
    """
    folds = StratifiedKFold(min(_FOLDS, int(is_given.sum())), shuffle=True, random_state=0)
    scores = np.empty(len(vectors))
    for seen, unseen in folds.split(vectors, is_given):
        scores[unseen] = fit_set(vectors[seen], is_given[seen], vectors[unseen])
    return scores


def fit_set(vectors: np.ndarray, is_given: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Fit a classifier to some genes and score others; embeddings are standardised first."""
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-12
    width = np.sqrt(vectors.shape[1])
    with one_blas_thread():
        found = LogisticRegression(C=_C, class_weight="balanced", max_iter=200)
        found.fit((vectors - mean) / spread / width, is_given)
    return found.predict_proba((others - mean) / spread / width)[:, 1]


def _rows(names: Sequence[str], model: LangCell) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the unique gene rows that names match, and the names that match none."""
    row_of_token = {token: row for row, token in enumerate(model.genes.gene_tokens.tolist())}
    tokens = model.genes.token_ids(GeneTable.bundled().resolve(names).ensembl_ids)
    unknown = tuple(name for name, token in zip(names, tokens, strict=True) if token < 0)
    rows = [row_of_token[token] for token in tokens.tolist() if token >= 0]
    return np.unique(rows).astype(int), unknown
