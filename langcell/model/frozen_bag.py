"""Inference with a bag of genes in NumPy: importing torch takes longer than a small file."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from langcell.checkpoints.checkpoint import WEIGHTS, Checkpoint, read_checkpoint, read_weights
from langcell.checkpoints.tensor_shapes import check_tensors
from langcell.checkpoints.weight_changes import WeightChanges, changed_sha256, changed_weights
from langcell.nn.bag_kernel import encode
from langcell.nn.config import LangCellConfig
from langcell.runtime.keywords import as_texts
from langcell.runtime.threads import over_slices

if TYPE_CHECKING:
    from langcell.genes.vocabulary import GeneVocabulary
    from langcell.model.protocol import CellModel

_TEXTS_PER_TASK = 256
_MIN_NORM = 1e-12  # as in torch.nn.functional.normalize
_CELLS_PER_TASK = 64
# Weights that inference reads; not those of a matching head or a fine-tuned text tower.
_PARTS = ("logit_scale", "cell_encoder.", "cell_projection.", "text_projection.")


class FrozenBag:
    """Inference on a CPU, in NumPy, for a `LangCell` whose cell encoder is a bag of genes.

    All inference with a bag on a CPU runs here; `langcell.nn.gene_bag.GeneBag` is for training and
    for other devices.

    Parameters
    ----------
    checkpoint
        Checkpoint of a bag, with weights from `read_arrays`.
    folder
        Folder of the checkpoint, to embed texts that are not in its label embeddings.

    Examples
    --------
    >>> bag = FrozenBag.read(Path("langcell/models/mini-fast"))  # doctest: +SKIP
    >>> bag.encode_tokens(np.array([7, 5]), np.array([0, 2])).shape  # doctest: +SKIP
    (1, 256)
    """

    def __init__(self, checkpoint: Checkpoint[np.ndarray], folder: Path | None = None) -> None:
        self.config = checkpoint.config
        self.vocabulary = checkpoint.vocabulary
        self.label_embeddings = checkpoint.labels
        self.reference = checkpoint.reference
        self.calibration = checkpoint.calibration
        self.sha256 = checkpoint.sha256
        self._weights = checkpoint.tensors
        self._folder = folder
        check_tensors(self._weights, _shapes(self.config), str(folder or "the model"))

    @classmethod
    def read(cls, folder: Path) -> "FrozenBag":
        """Read a checkpoint folder; raise as `langcell.checkpoints.checkpoint.read_checkpoint`."""
        return cls(read_checkpoint(folder, read_arrays), folder)

    @classmethod
    def of(cls, model: "CellModel") -> "FrozenBag":
        """Make a `FrozenBag` of a model on a CPU; float32 weights are shared, not copied."""
        weights = model.state_dict()
        names = [name for name in weights if name.startswith(_PARTS)]
        checkpoint = Checkpoint(
            config=model.config,
            tensors={name: weights[name].float().numpy() for name in names},
            vocabulary=model.vocabulary,
            labels=model.label_embeddings,
            reference=model.reference,
            calibration=model.calibration,
            sha256=model.sha256,
        )
        return cls(checkpoint)

    @property
    def device(self) -> str:
        """Where it runs: always the CPU."""
        return "cpu"

    @property
    def genes(self) -> "GeneVocabulary":
        """Gene vocabulary of the tokens.

        Raises
        ------
        ValueError
            If the model has no vocabulary.
        """
        if self.vocabulary is None:
            raise ValueError("the model has no gene vocabulary; load it with vocabulary=...")
        return self.vocabulary

    @property
    def scale(self) -> np.float32:
        """Factor on cosine similarities (inverse temperature), clipped from above."""
        scale = np.exp(self._weights["logit_scale"])
        return np.float32(min(scale, self.config.logit_scale_max))

    def changed(self, changes: WeightChanges) -> "FrozenBag":
        """Return a copy of the model with some weights changed; the rest is shared.

        Raises
        ------
        ValueError
            If the changes do not fit the model.
        """
        other = copy.copy(self)
        other._weights = self._weights | changed_weights(self._weights, changes)
        other.sha256 = changed_sha256(self.sha256, changes)
        return other

    def encode_tokens(self, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Embed tokenised cells.

        Parameters
        ----------
        tokens
            Gene tokens of all cells, concatenated, highest rank of each cell first, int, shape
            (n_tokens,); without CLS and padding.
        offsets
            Start of each cell in `tokens`, int64, shape (n_cells + 1,).

        Returns
        -------
        numpy.ndarray
            float32, unit norm, shape (n_cells, embedding_dim).
        """
        longest = int(np.diff(offsets).max(initial=0))
        weights = (
            self._weights["cell_encoder.token.weight"],
            (1 / np.log2(np.arange(longest) + 2.0)).astype(np.float32),
            self._weights["cell_encoder.mix.norm.weight"],
            self._weights["cell_encoder.mix.norm.bias"],
            self.config.cell.layer_norm_eps,
            *self._layer("cell_encoder.mix.hidden"),
            *self._layer("cell_projection"),
        )
        features = np.empty((len(offsets) - 1, self.config.embedding_dim), dtype=np.float32)

        def encode_some(start: int, stop: int) -> None:
            encode(tokens, offsets[start : stop + 1], *weights, features[start:stop])

        over_slices(encode_some, len(features), size=_CELLS_PER_TASK)
        return features

    def project_pooled(self, pooled: np.ndarray) -> np.ndarray:
        """Map pooled texts (n, text hidden) to unit-norm features (n, embedding_dim), both float32."""
        self.config.check_has_texts()
        weight, bias = self._layer("text_projection")
        features = np.empty((len(pooled), self.config.embedding_dim), dtype=np.float32)

        def project_some(start: int, stop: int) -> None:
            some = pooled[start:stop] @ weight + bias
            norms = np.sqrt((some.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
            features[start:stop] = some / np.maximum(norms, _MIN_NORM)

        # Thousands of texts are projected at each start. BLAS is twenty times faster than the kernel
        # for cells; its bits may depend on the batch, but the batch of labels is always the same.
        over_slices(project_some, len(features), size=_TEXTS_PER_TASK)
        return features

    def _layer(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return weight, shape (n_inputs, n_outputs), and bias of a linear layer."""
        return np.ascontiguousarray(self._weights[f"{name}.weight"].T), self._weights[
            f"{name}.bias"
        ]

    def pool_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return pooled texts before the projection, as `LangCell.pool_texts`; this needs torch."""
        self.config.check_has_texts()
        if self._folder is None:
            raise ValueError(
                "a FrozenBag made from a LangCell embeds no texts; call pool_texts of the LangCell"
            )
        # Imported here: torch takes seconds to import, and cells do not need it.
        from langcell.checkpoints.text_towers import load_tokenizer, read_tower
        from langcell.model.text_pooling import TEXT_BATCH, pool_texts

        config = self.config.text
        tower = read_tower(config, self._folder / WEIGHTS)
        tokenizer = load_tokenizer(config.tower, config.revision)
        return pool_texts(tower, tokenizer, as_texts(texts), batch_size=TEXT_BATCH)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the weights for inference as float32 arrays.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            names = [name for name in file.keys() if name.startswith(_PARTS)]
            return {name: file.get_tensor(name).astype(np.float32) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except TypeError:  # bfloat16, which NumPy lacks
        tensors = read_weights(path)
        return {name: tensors[name].numpy() for name in tensors if name.startswith(_PARTS)}


def _shapes(config: LangCellConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the weights for inference."""
    cell, width = config.cell, config.embedding_dim
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "cell_encoder.token.weight": (cell.vocab_size, cell.hidden_size),
        "cell_encoder.mix.norm.weight": (cell.hidden_size,),
        "cell_encoder.mix.norm.bias": (cell.hidden_size,),
        "cell_encoder.mix.hidden.weight": (cell.bag_size, cell.hidden_size),
        "cell_encoder.mix.hidden.bias": (cell.bag_size,),
        "cell_projection.weight": (width, cell.pooled_size),
        "cell_projection.bias": (width,),
    }
    if config.has_texts:
        shapes |= {
            "text_projection.weight": (width, config.text.hidden_size),
            "text_projection.bias": (width,),
        }
    return shapes
