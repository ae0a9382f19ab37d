"""Features of training cells stored with a model, to compute an offset for each label."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FILE = "reference.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceCells:
    """Features of training cells, sampled over cell types as in training.

    Attributes
    ----------
    features
        float16, unit norm before rounding, shape (n_cells, embedding_dim).
    """

    features: np.ndarray

    def label_offsets(self, text_features: np.ndarray, scale: float) -> np.ndarray:
        """Return the average similarity of each label to the reference cells.

        It is log mean exp(scale * similarity) / scale over the reference cells: the normaliser of
        the text-to-cell direction of the contrastive loss (Radford et al. 2021, CLIP, figure 3).
        Subtracted from similarities, it turns p(label | cell), which favours labels that were
        frequent in training, into p(cell | label), which does not.

        Parameters
        ----------
        text_features
            float32, unit norm, shape (n_labels, embedding_dim).
        scale
            Factor on similarities (inverse temperature).

        Returns
        -------
        numpy.ndarray
            float32, shape (n_labels,).
        """
        logits = scale * (self.features.astype(np.float32) @ text_features.T)
        top = logits.max(axis=0)  # (n_labels,)
        mean = np.exp(logits - top).mean(axis=0, dtype=np.float64)
        return ((top + np.log(mean)) / scale).astype(np.float32)

    def write(self, folder: Path) -> None:
        """Write reference.safetensors into `folder`."""
        save_file(
            {"features": np.ascontiguousarray(self.features, dtype=np.float16)}, folder / FILE
        )

    @classmethod
    def read(cls, folder: Path) -> "ReferenceCells":
        """Read reference.safetensors from `folder`.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        path = folder / FILE
        try:
            with safe_open(path, "np") as file:
                return cls(features=file.get_tensor("features"))
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
