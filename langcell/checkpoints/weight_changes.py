"""Changes to a model's weights after fine-tuning: low-rank updates, or new weights, by name."""

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

# The key of an entry is the name of the weight that it replaces; or that name plus `UP` or `DOWN`,
# for the two matrices whose product is added to the weight.
WeightChanges: TypeAlias = Mapping[str, np.ndarray]
UP, DOWN = ".up", ".down"


def changed_weights(
    weights: Mapping[str, np.ndarray], changes: WeightChanges
) -> dict[str, np.ndarray]:
    """Apply changes and return the changed weights only, float32.

    Parameters
    ----------
    weights
        Weights of the model, by name.
    changes
        Changes to some of them.

    Raises
    ------
    ValueError
        If a change has no weight in the model, or does not fit its shape.

    Examples
    --------
    >>> weights = {"a": np.zeros((2, 2)), "b": np.zeros(3)}
    >>> changes = {"a.up": np.array([[1.0], [2.0]]), "a.down": np.array([[3.0, 4.0]])}
    >>> changed_weights(weights, changes)["a"].tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    found = {}
    for name, change in changes.items():
        weight = name.removesuffix(UP).removesuffix(DOWN)
        if weight not in weights:
            raise ValueError(
                f"{name} is not a weight of the model: the change is for another architecture"
            )
        if name.endswith(DOWN):  # handled together with `UP`
            continue
        if name.endswith(UP):
            down = changes.get(weight + DOWN, np.empty((0, 0)))
            fits = change.ndim == down.ndim == 2 and change.shape[1] == down.shape[0]
            change = weights[weight] + change @ down if fits else change
        if change.shape != weights[weight].shape:
            raise ValueError(
                f"{name} gives a weight of shape {change.shape}, but the model's weight has shape "
                f"{weights[weight].shape}"
            )
        found[weight] = change.astype(np.float32)
    return found


def digest_of(changes: WeightChanges) -> str:
    """Return the SHA-256 of changes; '' if there are none."""
    if not changes:
        return ""
    digest = hashlib.sha256()
    for name in sorted(changes):
        digest.update(name.encode() + np.ascontiguousarray(changes[name]).tobytes())
    return digest.hexdigest()


def changed_sha256(sha256: str, changes: WeightChanges) -> str:
    """Return an identifier of a model with changes, from its SHA-256 and that of the changes."""
    return hashlib.sha256(f"{sha256} {digest_of(changes)}".encode()).hexdigest()
