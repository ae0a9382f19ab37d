"""What a head asks of a cell, so that genes can be found behind its calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from langcell.model.langcell import LangCell
from zeroshot.heads.few_shot_head import FewShotHead, weight_of_rank


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadDirections:
    """The log-odds of a head's labels, each linear in the features and the ranked genes of a cell.

    The difference of two labels is that of their log-odds to a constant.

    Attributes
    ----------
    features: to be multiplied by features and the scale of the model, (n_labels, embedding_dim)
    ranks: to be multiplied by `rank_weights`, a column a token, (n_labels, vocabulary size)
    """

    features: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of(cls, head: FewShotHead, texts: np.ndarray, model: LangCell) -> "HeadDirections":
        """Take a head apart.

        Parameters
        ----------
        head: whose labels are asked for
        texts: features of their texts, shape (n_labels, embedding_dim)
        model: as the head reads cells by it, see `FewShotHead.adapt`
        """
        ranks = np.zeros((len(head.keys), model.genes.size), dtype=np.float32)
        ranks[:, head.gene_tokens] = head.gene_weights
        features = head.text_weight * texts + head.feature_weights / model.scale.item()
        return cls(features=features.astype(np.float32), ranks=ranks)


def adapted(head: FewShotHead, model: LangCell) -> LangCell:
    """Return the model as a head reads cells by it.

    Raises
    ------
    ValueError
        If genes cannot be found behind its calls.
    """
    if head.matches:
        raise ValueError(
            f"a head {head.kind} reads labels with the matching head of the model, and genes are "
            "found for what is linear in the features of a cell, as all other heads are"
        )
    changed = head.adapt(model)
    assert isinstance(changed, LangCell), "as the model is"
    return changed


def head_of_calls(details: Mapping[str, Any]) -> str:
    """Return the id of the head that made the calls, '' where none did.

    Parameters
    ----------
    details: what annotating wrote to uns
    """
    return str(details["head"]["id"]) if "head" in details else ""


def check_made_by(details: Mapping[str, Any], head: FewShotHead | None) -> None:
    """Refuse any head but the one that made the calls, and none where one did.

    Raises
    ------
    ValueError
        That names both.
    """
    made_by = head_of_calls(details)
    if made_by and head is None:
        raise ValueError("the calls were made with a head; name it with --head")
    if head is not None and head.identifier != made_by:
        raise ValueError(
            f"the calls were made {f'with the head {made_by}' if made_by else 'without a head'}, "
            f"and not with {head.identifier}; see --head"
        )


def rank_effects(tokens: np.ndarray, weights: np.ndarray, *, n_read: int) -> np.ndarray:
    """Return what a weighted sum of the ranks of a cell loses without each gene; exact.

    Those of lower rank move up, and where the cell has more genes than are read the next comes in.

    Parameters
    ----------
    tokens: of a cell, highest rank first; one gene more than is read
    weights: of `rank_weights` by token, shape (n_directions, vocabulary size)
    n_read: genes that the model reads at most

    Returns
    -------
    Shape (n_genes, n_directions), of the genes that are read

    Examples
    --------
    >>> effects = rank_effects(np.array([2, 3]), np.array([[0, 0, 1.0, 1.0]]), n_read=2)
    >>> effects.ravel().round(3)  # without the first, the second takes its place
    array([0.97, 0.97])
    """
    tokens = tokens[: n_read + 1]
    n = min(len(tokens), n_read)
    shares = np.append(weight_of_rank(np.arange(n)), np.zeros(len(tokens) - n))
    values = weights[:, tokens].T.astype(np.float64)  # (n_tokens, n_directions)
    gains = np.append(0.0, shares[:-1] - shares[1:])[: len(tokens), None] * values
    of_lower = gains[::-1].cumsum(axis=0)[::-1] - gains
    return (shares[:, None] * values - of_lower)[:n]
