"""How unlike the labelled cells of a head a cell is: a hint that its type has no label there."""

from dataclasses import dataclass

import numpy as np

_TEXT_CELLS = 3.0  # what the text of a label counts for, in cells; chosen on the validation studies
_TYPICAL, _FAR = 50, 1  # percentiles of the similarity of labelled cells
_LEAST_NORM = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Distance to the nearest prototype, which is the mean of a label's cells and its text.

    0 is as near as the median labelled cell is to prototypes that it is no part of, 1 as far as the
    loneliest hundredth of them; both ends are open. A label without cells is known by its text.

    Attributes
    ----------
    prototypes: float32, unit norm, shape (n_labels, embedding_dim)
    typical, far: similarities that score 0 and 1
    """

    prototypes: np.ndarray
    typical: float = 1.0
    far: float = 0.0

    def __call__(self, cell_features: np.ndarray) -> np.ndarray:
        """Score cells.

        Parameters
        ----------
        cell_features: float32, unit norm, shape (n_cells, embedding_dim)

        Returns
        -------
        float32, shape (n_cells,), rounded to three decimals
        """
        # In double precision, so that the cells beside a cell do not change its three decimals.
        nearest = cell_features.astype(np.float64) @ self.prototypes.T.astype(np.float64)
        span = max(self.typical - self.far, 1e-6)
        return np.round((self.typical - nearest.max(axis=1)) / span, 3).astype(np.float32)

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, label_features: np.ndarray) -> "Novelty":
        """Learn prototypes.

        Parameters
        ----------
        features: of labelled cells, shape (n_cells, embedding_dim)
        labels: of the same cells, shape (n_cells,)
        label_features: of the labels' texts, unit norm; zeros where they say nothing, shape
            (n_labels, embedding_dim)
        """
        features = features.astype(np.float64)
        sums = _TEXT_CELLS * label_features.astype(np.float64)
        np.add.at(sums, labels, features)
        similarities = features @ _unit(sums).T  # (n_cells, n_labels)
        cells = np.arange(len(features))
        similarities[cells, labels] = (features * _unit(sums[labels] - features)).sum(axis=1)
        typical, far = np.percentile(similarities.max(axis=1), [_TYPICAL, _FAR])
        prototypes = _unit(sums).astype(np.float32)
        return cls(prototypes=prototypes, typical=float(typical), far=float(far))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST_NORM)
