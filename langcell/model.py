"""The model that puts cells and texts in one space."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell import hub
from langcell.bert import Attended, inference, init_weights
from langcell.cell_encoder import CellEncoder
from langcell.checkpoint import (
    Checkpoint,
    read_checkpoint,
    read_weights,
    resolve_checkpoint,
    write_checkpoint,
)
from langcell.config import LangCellConfig
from langcell.counts import open_counts
from langcell.device import find_device
from langcell.embed import embed_cells
from langcell.features import CellFeatures, LangCellOutput, TextFeatures
from langcell.gene_bag import GeneBag
from langcell.label_embeddings import LabelEmbeddings
from langcell.matching import CrossAttentionMatching, FusionMatching
from langcell.official import is_official, read_official
from langcell.reference import ReferenceCells
from langcell.tensor_shapes import check_tensors
from langcell.text_encoder import TextEncoder
from langcell.texts import pool_texts, tokenize_texts
from langcell.towers import load_tokenizer, load_tower
from langcell.unset_weights import unset_weights
from langcell.weight_changes import WeightChanges, changed_sha256, changed_weights

if TYPE_CHECKING:
    from anndata import AnnData
    from transformers import PreTrainedTokenizerBase

    from langcell.genes import GeneVocabulary


class LangCell(nn.Module):
    """Cell encoder, text encoder, projections to one space, and a matching head.

    Without a text tower (`text.tower` is '') it is a cell encoder and its projection alone: it embeds
    cells, and refuses what asks for a text.

    Parameters
    ----------
    config
        Sizes and choices.
    vocabulary
        Genes behind the tokens; None leaves `encode_cells` and `save_pretrained` without.
    text_encoder
        Weights for a tuned text tower to start from (see `langcell.towers.load_tower`); random
        without. A frozen tower is loaded when it is first needed and is never part of the
        module's parameters.

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
        super().__init__()
        if vocabulary is not None and vocabulary.n_genes != config.cell.n_genes:
            raise ValueError(
                f"cell.vocab_size must fit the vocabulary's {vocabulary.n_genes} genes, got "
                f"{config.cell.vocab_size}, which are {config.cell.n_genes}"
            )
        self.config = config
        self.vocabulary = vocabulary
        self.sha256 = ""  # of the weights file that the model was read from or written to
        self.label_embeddings: LabelEmbeddings | None = None
        self.reference: ReferenceCells | None = None
        self.calibration = ""  # text of calibration.json, see zeroshot.calibration
        encoder = GeneBag if config.cell.kind == "bag" else CellEncoder
        self.cell_encoder: CellEncoder | GeneBag = encoder(config.cell)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.cell_projection: nn.Module = nn.Identity()
        if config.project_cells:
            self.cell_projection = nn.Linear(config.cell.pooled_size, config.embedding_dim)
        self.text_encoder: TextEncoder | None = None
        if config.has_texts:
            self._join_texts(text_encoder)
        else:
            init_weights(self.cell_projection)
        # In a list, so that the module neither saves, trains nor counts a frozen tower.
        self._frozen_tower: list[TextEncoder] = []
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def _join_texts(self, text_encoder: TextEncoder | None) -> None:
        """Build what puts texts beside cells."""
        config = self.config
        self.text_projection = nn.Linear(config.text.hidden_size, config.embedding_dim)
        self.matching = _matching_head(config)
        # Before the tower, so that a seed gives the weights that it always gave.
        for projection in (self.cell_projection, self.text_projection):
            init_weights(projection)
        if not config.text.frozen:
            self.text_encoder = text_encoder or TextEncoder(config.text)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.logit_scale.device

    @property
    def genes(self) -> "GeneVocabulary":
        """Genes behind the tokens.

        Raises
        ------
        ValueError
            If the model was made without.
        """
        if self.vocabulary is None:
            raise ValueError(
                "the model has no gene table; make a checkpoint of its folder with langcell "
                "convert, or load it with vocabulary=..."
            )
        return self.vocabulary

    @property
    def scale(self) -> Tensor:
        """Factor on cosine similarities (inverse temperature), clipped from above."""
        return self.logit_scale.exp().clamp(max=self.config.logit_scale_max)

    def text_tower(self) -> TextEncoder:
        """Return the text encoder, loading a frozen one when it is first asked for.

        Raises
        ------
        ValueError
            If the model has none.
        """
        self.config.check_has_texts()
        if self.text_encoder is not None:
            return self.text_encoder
        if not self._frozen_tower:
            self._frozen_tower.append(load_tower(self.config.text).eval().requires_grad_(False))
        return self._frozen_tower[0].to(self.device)

    def encode_cell(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, cls_only: bool = False
    ) -> CellFeatures:
        """Encode tokenised cells.

        Parameters
        ----------
        input_ids
            CLS and gene tokens in rank order, shape (n_cells, t).
        attention_mask
            Shape (n_cells, t), nonzero where a token is real; None where all are.
        cls_only
            Leave out the last states that matching would need; faster, same features.
        """
        states, pooled = self.cell_encoder.encode(input_ids, attention_mask, cls_only=cls_only)
        features = functional.normalize(self.cell_projection(pooled), dim=-1)
        if attention_mask is not None and not cls_only:
            attention_mask = attention_mask[:, : states.shape[1]]  # that of the states
        return CellFeatures(
            states=states, attention_mask=attention_mask, pooled=pooled, features=features
        )

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None) -> TextFeatures:
        """Encode tokenised texts, both (n_texts, t)."""
        tower = self.text_tower()
        states = tower(input_ids, attention_mask)
        pooled = tower.pool(states, attention_mask)
        return TextFeatures(
            input_ids=input_ids,
            attention_mask=attention_mask,
            states=states,
            pooled=pooled,
            features=self.project_text(pooled),
        )

    def project_text(self, pooled: Tensor) -> Tensor:
        """Map pooled texts (n, text hidden) to unit features (n, embedding_dim)."""
        self.config.check_has_texts()
        return functional.normalize(self.text_projection(pooled), dim=-1)

    def match(
        self,
        text: TextFeatures,
        cell: CellFeatures,
        *,
        text_rows: Tensor | None = None,
        cell_rows: Tensor | None = None,
    ) -> Tensor:
        """Score pairs of a text and a cell.

        Parameters
        ----------
        text, cell
            From `encode_text` and `encode_cell` (with all states).
        text_rows, cell_rows
            Shape (n,): pair i is text `text_rows[i]` with cell `cell_rows[i]`. None takes row i.

        Returns
        -------
        Tensor
            Logits, shape (n, 2); index 1 is 'match'.
        """
        self.config.check_has_texts()
        # A cell's keys and values are made once, and only for cells that stand in a pair.
        used, rows = (None, None) if cell_rows is None else cell_rows.unique(return_inverse=True)
        cells = Attended(
            states=cell.states if used is None else cell.states[used],
            attention_mask=_take(cell.attention_mask, used),
            rows=rows,
        )
        mask = _take(text.attention_mask, text_rows)
        if isinstance(self.matching, FusionMatching):
            own_text = text.features if text_rows is None else text.features[text_rows]
            own_cell = cell.features if cell_rows is None else cell.features[cell_rows]
            return self.matching(_take(text.states, text_rows), mask, cells, own_text * own_cell)
        states = self.text_tower()(
            _take(text.input_ids, text_rows), mask, cells=cells, first_only=True
        )
        return self.matching(states[:, 0])

    def masked_gene_logits(self, states: Tensor) -> Tensor:
        """Score every gene token at each state, (..., hidden) to (..., vocab_size)."""
        if isinstance(self.cell_encoder, GeneBag):
            raise ValueError("a bag of genes has no masked-gene head (cell.kind is 'bag')")
        return self.cell_encoder.masked_gene_logits(states)

    def forward(
        self,
        cell_input_ids: Tensor,
        cell_attention_mask: Tensor | None,
        text_input_ids: Tensor,
        text_attention_mask: Tensor | None,
    ) -> LangCellOutput:
        """Encode a batch of cells and a batch of texts; see `encode_cell` and `encode_text`."""
        return LangCellOutput(
            cells=self.encode_cell(cell_input_ids, cell_attention_mask),
            texts=self.encode_text(text_input_ids, text_attention_mask),
            logit_scale=self.scale,
        )

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Tokenizer of the text tower."""
        self.config.check_has_texts()
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.config.text.tower, self.config.text.revision)
        return self._tokenizer

    def tokenize_texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask of texts, both (n_texts, t), on the model's device."""
        return tokenize_texts(self, texts)

    def pool_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Return texts before the projection: float32, shape (n_texts, text hidden size)."""
        return pool_texts(self, texts, batch_size=batch_size)

    def encode_cells(
        self,
        source: "AnnData | str | Path",
        *,
        batch_size: int | None = None,
        layer: str | None = None,
        allow_normalized: bool = False,
    ) -> np.ndarray:
        """Embed the cells of an AnnData or a file in the common space.

        Parameters
        ----------
        source
            AnnData, or path to .h5ad, .zarr, 10x .h5 or a 10x mtx folder.
        batch_size
            Cells computed at once; see `langcell.embed.embed_cells`.
        layer, allow_normalized
            Where the counts are, and whether they may be normalised; see
            `langcell.counts.open_counts`.

        Returns
        -------
        numpy.ndarray
            float32, unit norm, shape (n_cells, embedding_dim).

        Raises
        ------
        ValueError
            If there are no usable counts, or too few of the genes are known.
        """
        with open_counts(source, layer=layer, allow_normalized=allow_normalized) as matrix:
            blocks = [block.features for block in embed_cells(self, matrix, batch_size=batch_size)]
        return np.concatenate(blocks)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed texts: float32, unit norm, shape (n_texts, embedding_dim)."""
        return self.project_pooled(self.pool_texts(texts, batch_size=batch_size))

    def project_pooled(self, pooled: np.ndarray) -> np.ndarray:
        """Map pooled texts, float32, to features as `encode_texts` returns them."""
        with inference(self):
            return self.project_text(torch.from_numpy(pooled).to(self.device)).cpu().numpy()

    def changed(self, changes: WeightChanges) -> "LangCell":
        """Return the model with some weights changed; all else is shared.

        Where the text encoder changes, stored label embeddings and reference cells stay behind: they
        are of the space that was.

        Raises
        ------
        ValueError
            If the changes do not fit.
        """
        tensors = self.state_dict()
        new = changed_weights({name: each.cpu().numpy() for name, each in tensors.items()}, changes)
        reads_anew = any(name.startswith("text_encoder.") for name in new)
        other = LangCell.from_checkpoint(
            Checkpoint(
                config=self.config,
                tensors={
                    name: torch.from_numpy(new[name]).to(self.device) if name in new else tensor
                    for name, tensor in tensors.items()
                },
                vocabulary=self.vocabulary,
                labels=None if reads_anew else self.label_embeddings,
                reference=None if reads_anew else self.reference,
                calibration=self.calibration,
                sha256=changed_sha256(self.sha256, changes),
            ),
            "the changed model",
        )
        other._frozen_tower, other._tokenizer = self._frozen_tower, self._tokenizer
        return other

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the model to a folder; see `langcell.checkpoint.write_checkpoint`."""
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
        """Upload the model to the Hugging Face hub; see `langcell.hub.upload`.

        Returns
        -------
        str
            Hash of the commit: `from_pretrained(repo_id, revision=...)` loads this and no other.
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
            See `langcell.checkpoint.resolve_checkpoint`. A folder in the layout of the released
            LangCell is read too.
        revision
            Commit, tag or branch of a hub id; `owner/name@revision` names it too.
        device
            Where the weights go.
        vocabulary
            Gene table for a released LangCell folder, which brings none.

        Raises
        ------
        OSError
            If it is not found.
        ValueError
            If it is not a checkpoint of this format, or tensors are missing, unknown or misshapen;
            or there is no such device.
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
        """Build the model that a checkpoint describes; `where` names it in errors."""
        with unset_weights():
            model = cls(checkpoint.config, checkpoint.vocabulary)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        check_tensors(checkpoint.tensors, shapes, where)
        model.load_state_dict(checkpoint.tensors, assign=True)
        model.label_embeddings = checkpoint.labels
        model.reference = checkpoint.reference
        model.calibration = checkpoint.calibration
        model.sha256 = checkpoint.sha256
        return model.requires_grad_(True).eval()


def _take(tensor: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return tensor if rows is None or tensor is None else tensor[rows]


def _matching_head(config: LangCellConfig) -> CrossAttentionMatching | FusionMatching:
    if config.matching.kind == "cross_attention":
        return CrossAttentionMatching(config.text)
    return FusionMatching(
        config.matching,
        text_width=config.text.hidden_size,
        cell_width=config.cell.hidden_size,
        feature_width=config.embedding_dim,
    )
