"""What tuning changed in a model's weights: low-rank sums, or whole weights, by name."""

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

# An entry bears the name of the weight that it replaces; or that name with `UP` or `DOWN` behind it,
# for the two matrices whose product is added to it.
WeightChanges: TypeAlias = Mapping[str, np.ndarray]
UP, DOWN = ".up", ".down"


def changed_weights(
    weights: Mapping[str, np.ndarray], changes: WeightChanges
) -> dict[str, np.ndarray]:
    """Return the weights that differ, float32.

    Parameters
    ----------
    weights
        Of the model, by name.
    changes
        Of some of them.

    Raises
    ------
    ValueError
        If a change is of no weight of the model, or does not fit its shape.

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
                f"{name} changes no weight of the model: it is of another architecture"
            )
        if name.endswith(DOWN):  # read with the other one
            continue
        if name.endswith(UP):
            down = changes.get(weight + DOWN, np.empty((0, 0)))
            fits = change.ndim == down.ndim == 2 and change.shape[1] == down.shape[0]
            change = weights[weight] + change @ down if fits else change
        if change.shape != weights[weight].shape:
            raise ValueError(
                f"{name} makes a weight of shape {change.shape}, and the model's has "
                f"{weights[weight].shape}"
            )
        found[weight] = change.astype(np.float32)
    return found


def digest_of(changes: WeightChanges) -> str:
    """Return the sha256 of changes; '' for none."""
    if not changes:
        return ""
    digest = hashlib.sha256()
    for name in sorted(changes):
        digest.update(name.encode() + np.ascontiguousarray(changes[name]).tobytes())
    return digest.hexdigest()


def changed_sha256(sha256: str, changes: WeightChanges) -> str:
    """Return what a changed model is known by: it is neither the one it was nor on disk."""
    return hashlib.sha256(f"{sha256} {digest_of(changes)}".encode()).hexdigest()
