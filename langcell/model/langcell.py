"""The `LangCell` model, which embeds cells and texts in one space."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from langcell.checkpoints import hub
from langcell.checkpoints.checkpoint import (
    Checkpoint,
    read_checkpoint,
    read_weights,
    resolve_checkpoint,
    write_checkpoint,
)
from langcell.checkpoints.label_embeddings import LabelEmbeddings
from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.checkpoints.tensor_shapes import check_tensors
from langcell.checkpoints.text_towers import load_tokenizer, load_tower
from langcell.checkpoints.weight_changes import WeightChanges, changed_sha256, changed_weights
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.text_pooling import pool_texts, tokenize_texts
from langcell.nn.bert import inference
from langcell.nn.config import LangCellConfig
from langcell.nn.empty_init import skip_init
from langcell.nn.text_encoder import TextEncoder
from langcell.nn.two_tower import TwoTower
from langcell.released.official import is_official, read_official
from langcell.runtime.device import find_device
from langcell.runtime.keywords import as_texts

if TYPE_CHECKING:
    from anndata import AnnData
    from transformers import PreTrainedTokenizerBase

    from langcell.genes.vocabulary import GeneVocabulary


class LangCell(TwoTower):
    """Two-tower model that embeds cells and texts in one space.

    Without a text tower (`text.tower` is '') it has only a cell encoder and its projection: it embeds
    cells, and raises ValueError for texts.

    Parameters
    ----------
    config
        Model configuration.
    vocabulary
        Gene vocabulary; `encode_cells` and `save_pretrained` need it.
    text_encoder
        Initial text encoder if the text tower is trained (see
        `langcell.checkpoints.text_towers.load_tower`); by default random. A frozen tower is loaded
        when it is first needed and is never part of the module's parameters.

    Examples
    --------
    >>> model = LangCell.from_pretrained("mini-fast")  # doctest: +SKIP
    >>> model.encode_texts(["cell type: B cell. "]).shape  # doctest: +SKIP
    (1, 256)
    """

    def __init__(
        self,
        config: LangCellConfig,
        vocabulary: "GeneVocabulary | None" = None,
        *,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        if vocabulary is not None and vocabulary.n_genes != config.cell.n_genes:
            raise ValueError(
                f"cell.vocab_size={config.cell.vocab_size} is for {config.cell.n_genes} genes, but "
                f"the vocabulary has {vocabulary.n_genes}"
            )
        super().__init__(config, text_encoder=text_encoder)
        self.vocabulary = vocabulary
        self.sha256 = (
            ""  # of the weights file from which the model was read or to which it was saved
        )
        self.label_embeddings: LabelEmbeddings | None = None
        self.reference: ReferenceCells | None = None
        self.calibration = ""  # text of calibration.json, see zeroshot.confidence.calibration
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def genes(self) -> "GeneVocabulary":
        """Gene vocabulary of the tokens.

        Raises
        ------
        ValueError
            If the model has no vocabulary.
        """
        if self.vocabulary is None:
            raise ValueError(
                "the model has no gene vocabulary; load it with vocabulary=..., or convert its "
                "folder with langcell convert"
            )
        return self.vocabulary

    def _load_frozen_tower(self) -> TextEncoder:
        return load_tower(self.config.text)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Tokenizer of the text tower."""
        self.config.check_has_texts()
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.config.text.tower, self.config.text.revision)
        return self._tokenizer

    def tokenize_texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask of texts, both (n_texts, t), on the model's device."""
        return tokenize_texts(
            self.tokenizer, texts, max_tokens=self.config.text.max_tokens, device=self.device
        )

    def pool_texts(self, texts: str | Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Return pooled texts before the projection: float32, shape (n_texts, text hidden size)."""
        return pool_texts(self.text_tower(), self.tokenizer, as_texts(texts), batch_size=batch_size)

    def encode_cells(
        self,
        source: "AnnData | str | Path",
        *,
        batch_size: int | None = None,
        layer: str | None = None,
        allow_normalized: bool = False,
    ) -> np.ndarray:
        """Embed the cells of an AnnData or a file.

        Parameters
        ----------
        source
            AnnData, or path to .h5ad, .zarr, 10x .h5 or a 10x mtx folder.
        batch_size
            Cells per batch; see `langcell.model.embed_cells.embed_cells`.
        layer, allow_normalized
            Layer of the raw counts, and whether normalised values are accepted; see
            `langcell.counts.reader.open_counts`.

        Returns
        -------
        numpy.ndarray
            float32, unit norm, shape (n_cells, embedding_dim).

        Raises
        ------
        ValueError
            If there are no raw counts, or too few genes are known.
        """
        with open_counts(source, layer=layer, allow_normalized=allow_normalized) as matrix:
            blocks = [block.features for block in embed_cells(self, matrix, batch_size=batch_size)]
        return np.concatenate(blocks)

    def encode_texts(self, texts: str | Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed texts: float32, unit norm, shape (n_texts, embedding_dim)."""
        return self.project_pooled(self.pool_texts(texts, batch_size=batch_size))

    def project_pooled(self, pooled: np.ndarray) -> np.ndarray:
        """Project pooled texts, float32, to features as returned by `encode_texts`."""
        with inference(self):
            return self.project_text(torch.from_numpy(pooled).to(self.device)).cpu().numpy()

    def changed(self, changes: WeightChanges) -> "LangCell":
        """Return a copy of the model with some weights changed; the rest is shared.

        If the text encoder changes, the stored label embeddings and reference cells are dropped,
        since they no longer fit.

        Raises
        ------
        ValueError
            If the changes do not fit the model.
        """
        tensors = self.state_dict()
        new = changed_weights({name: each.cpu().numpy() for name, each in tensors.items()}, changes)
        text_changed = any(name.startswith("text_encoder.") for name in new)
        other = LangCell.from_checkpoint(
            Checkpoint(
                config=self.config,
                tensors={
                    name: torch.from_numpy(new[name]).to(self.device) if name in new else tensor
                    for name, tensor in tensors.items()
                },
                vocabulary=self.vocabulary,
                labels=None if text_changed else self.label_embeddings,
                reference=None if text_changed else self.reference,
                calibration=self.calibration,
                sha256=changed_sha256(self.sha256, changes),
            ),
            "the changed model",
        )
        other._frozen_tower, other._tokenizer = self._frozen_tower, self._tokenizer
        return other

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the model to a folder; see `langcell.checkpoints.checkpoint.write_checkpoint`."""
        checkpoint = Checkpoint(
            config=self.config,
            tensors=dict(self.state_dict()),
            vocabulary=self.vocabulary,
            labels=self.label_embeddings,
            reference=self.reference,
            calibration=self.calibration,
        )
        self.sha256 = write_checkpoint(Path(folder), checkpoint, dtype=dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str = "",
        private: bool = False,
        message: str = "Upload a langcell checkpoint",
        dtype: torch.dtype = torch.float32,
    ) -> str:
        """Upload the model to the Hugging Face hub; see `langcell.checkpoints.hub.upload`.

        Returns
        -------
        str
            Commit hash; `from_pretrained(repo_id, revision=...)` loads exactly this version.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            return hub.upload(
                Path(folder), repo_id, revision=revision, private=private, message=message
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str = "",
        device: str = "cpu",
        vocabulary: "GeneVocabulary | None" = None,
    ) -> "LangCell":
        """Load a bundled model by name, a folder, or a Hugging Face hub id.

        Parameters
        ----------
        name
            See `langcell.checkpoints.checkpoint.resolve_checkpoint`. A folder in the layout of the
            released LangCell is also accepted.
        revision
            Commit, tag or branch of a hub id; can also be given as `owner/name@revision`.
        device
            Device of the weights.
        vocabulary
            Gene vocabulary for a released LangCell folder, which has none.

        Raises
        ------
        OSError
            If the model is not found.
        ValueError
            If it is not a checkpoint of this format, if tensors are missing, unknown or of the wrong
            shape, or if the device does not exist.
        """
        place = find_device(device)
        folder = resolve_checkpoint(name, revision=revision)
        if is_official(folder):
            checkpoint = read_official(folder, vocabulary=vocabulary)
        else:
            checkpoint = read_checkpoint(folder, read_weights)
        return cls.from_checkpoint(checkpoint, str(folder)).to(place)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint[Tensor], where: str) -> "LangCell":
        """Build a model from a checkpoint; `where` names the checkpoint in errors."""
        with skip_init():
            model = cls(checkpoint.config, checkpoint.vocabulary)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        check_tensors(checkpoint.tensors, shapes, where)
        model.load_state_dict(checkpoint.tensors, assign=True)
        model.label_embeddings = checkpoint.labels
        model.reference = checkpoint.reference
        model.calibration = checkpoint.calibration
        model.sha256 = checkpoint.sha256
        return model.requires_grad_(True).eval()
