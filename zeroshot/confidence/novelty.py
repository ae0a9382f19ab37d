"""Out-of-distribution score of a few-shot head: distance to its labelled cells."""

from dataclasses import dataclass

import numpy as np

_TEXT_CELLS = 3.0  # weight of the text of a label, in cells; chosen on the validation studies
_TYPICAL, _FAR = 50, 1  # percentiles of the similarity of labelled cells
_LEAST_NORM = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Scaled distance to the nearest prototype: the mean of the cells and the text of a label.

    The scale comes from the similarities of labelled cells to prototypes computed without them: 0 is
    the median, 1 the first percentile (the most distant 1% of cells). Scores can be below 0 or above
    1. A high score suggests that no label of the head fits the cell. The prototype of a label
    without cells is its text embedding.

    Attributes
    ----------
    prototypes: float32, unit norm, shape (n_labels, embedding_dim)
    typical, far: similarities with scores 0 and 1
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
        # float64, so that the rounded score of a cell does not depend on the other cells.
        nearest = cell_features.astype(np.float64) @ self.prototypes.T.astype(np.float64)
        span = max(self.typical - self.far, 1e-6)
        return np.round((self.typical - nearest.max(axis=1)) / span, 3).astype(np.float32)

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, label_features: np.ndarray) -> "Novelty":
        """Compute prototypes and the scale of the score.

        Parameters
        ----------
        features: of labelled cells, shape (n_cells, embedding_dim)
        labels: of the same cells, shape (n_cells,)
        label_features: text embeddings of the labels, unit norm; zeros for labels without a usable
            text, shape (n_labels, embedding_dim)
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
