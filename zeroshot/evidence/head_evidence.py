"""Write the log-odds of a few-shot head as linear functions, to attribute its calls to genes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from langcell.model.langcell import LangCell
from langcell.runtime.parameter_names import option
from zeroshot.heads.few_shot_head import FewShotHead, weight_of_rank


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadDirections:
    """Weights of a head's labels, linear in the cell features and in the ranked genes.

    The log-odds between two labels are the difference of their directions, up to a constant.

    Attributes
    ----------
    features: weights of features times the model's scale, shape (n_labels, embedding_dim)
    ranks: weights of `rank_weights`, one column per token, shape (n_labels, vocabulary size)
    """

    features: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of(cls, head: FewShotHead, texts: np.ndarray, model: LangCell) -> "HeadDirections":
        """Return the directions of the labels of a head.

        Parameters
        ----------
        head: few-shot head
        texts: text features of its labels, shape (n_labels, embedding_dim)
        model: model with the head's weight changes, see `FewShotHead.adapt`
        """
        ranks = np.zeros((len(head.keys), model.genes.size), dtype=np.float32)
        ranks[:, head.gene_tokens] = head.gene_weights
        features = head.text_weight * texts + head.feature_weights / model.scale.item()
        return cls(features=features.astype(np.float32), ranks=ranks)


def adapted_model(head: FewShotHead, model: LangCell) -> LangCell:
    """Return the model with the head's weight changes.

    Raises
    ------
    ValueError
        If calls of this kind of head cannot be attributed to genes.
    """
    if head.matches:
        raise ValueError(
            f"a {head.kind} head scores labels with the matching head of the model, which is not "
            "linear in the cell features and cannot be explained; use any other kind of head"
        )
    changed = head.adapt(model)
    assert isinstance(changed, LangCell), "adapting keeps the class of the model"
    return changed


def head_of_calls(details: Mapping[str, Any]) -> str:
    """Return the id of the head that made the calls, '' if none did.

    Parameters
    ----------
    details: entry of uns that annotation wrote
    """
    return str(details["head"]["id"]) if "head" in details else ""


def check_made_by(details: Mapping[str, Any], head: FewShotHead | None) -> None:
    """Check that the given head, or the absence of one, matches what made the calls.

    Raises
    ------
    ValueError
        If it does not; the message names both heads.
    """
    made_by = head_of_calls(details)
    if made_by and head is None:
        raise ValueError(f"the calls were made with a head (id {made_by}); pass {option('head')}")
    if head is not None and head.identifier != made_by:
        raise ValueError(
            f"the calls were made {f'with the head {made_by}' if made_by else 'without a head'}, "
            f"not with the head {head.identifier} of {option('head')}"
        )


def rank_effects(tokens: np.ndarray, weights: np.ndarray, *, n_read: int) -> np.ndarray:
    """Return how much a weighted sum of rank weights drops without each gene of a cell; exact.

    Lower-ranked genes move up, and the next gene is read if the cell has more than `n_read`.

    Parameters
    ----------
    tokens: genes of a cell, highest rank first; pass one more than is read
    weights: weight of each token's `rank_weights`, shape (n_directions, vocabulary size)
    n_read: maximum number of genes that the model reads

    Returns
    -------
    Shape (n_genes, n_directions), for the genes that are read

    Examples
    --------
    >>> effects = rank_effects(np.array([2, 3]), np.array([[0, 0, 1.0, 1.0]]), n_read=2)
    >>> effects.ravel().round(3)  # without the first gene, the second takes its rank
    array([0.97, 0.97])
    """
    tokens = tokens[: n_read + 1]
    n = min(len(tokens), n_read)
    shares = np.append(weight_of_rank(np.arange(n)), np.zeros(len(tokens) - n))
    values = weights[:, tokens].T.astype(np.float64)  # (n_tokens, n_directions)
    gains = np.append(0.0, shares[:-1] - shares[1:])[: len(tokens), None] * values
    of_lower = gains[::-1].cumsum(axis=0)[::-1] - gains
    return (shares[:, None] * values - of_lower)[:n]
