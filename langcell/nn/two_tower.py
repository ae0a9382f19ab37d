"""Two-tower network: cell and text encoder, projections to one space, and a matching head."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell.nn.bert import Attended, init_weights
from langcell.nn.cell_encoder import CellEncoder
from langcell.nn.config import LangCellConfig
from langcell.nn.features import CellFeatures, LangCellOutput, TextFeatures
from langcell.nn.gene_bag import GeneBag
from langcell.nn.matching_heads import CrossAttentionMatching, FusionMatching
from langcell.nn.text_encoder import TextEncoder


class TwoTower(nn.Module):
    """Cell encoder, text encoder, projections to one space, and a matching head.

    Without a text tower (`text.tower` is '') it has only a cell encoder and its projection: it embeds
    cells, and raises ValueError for texts.

    Parameters
    ----------
    config
        Model configuration.
    text_encoder
        Initial text encoder if the text tower is trained (see
        `langcell.checkpoints.text_towers.load_tower`); by default random. A frozen tower is never
        part of the module's parameters.
    """

    def __init__(self, config: LangCellConfig, *, text_encoder: TextEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        encoder = GeneBag if config.cell.kind == "bag" else CellEncoder
        self.cell_encoder: CellEncoder | GeneBag = encoder(config.cell)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.cell_projection: nn.Module = nn.Identity()
        if config.project_cells:
            self.cell_projection = nn.Linear(config.cell.pooled_size, config.embedding_dim)
        self.text_encoder: TextEncoder | None = None
        if config.has_texts:
            self._add_text_modules(text_encoder)
        else:
            init_weights(self.cell_projection)
        # In a list, so that a frozen tower is not registered as a submodule.
        self._frozen_tower: list[TextEncoder] = []

    def _add_text_modules(self, text_encoder: TextEncoder | None) -> None:
        """Build the text projection, the matching head and, unless frozen, the text encoder."""
        config = self.config
        self.text_projection = nn.Linear(config.text.hidden_size, config.embedding_dim)
        self.matching = _matching_head(config)
        # Initialised before the tower, so that a seed keeps giving the same weights.
        for projection in (self.cell_projection, self.text_projection):
            init_weights(projection)
        if not config.text.frozen:
            self.text_encoder = text_encoder or TextEncoder(config.text)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.logit_scale.device

    @property
    def scale(self) -> Tensor:
        """Factor on cosine similarities (inverse temperature), clipped to `logit_scale_max`."""
        return self.logit_scale.exp().clamp(max=self.config.logit_scale_max)

    def text_tower(self) -> TextEncoder:
        """Return the text encoder, on the device of the weights.

        Raises
        ------
        ValueError
            If the model has no text encoder.
        """
        self.config.check_has_texts()
        if self.text_encoder is not None:
            return self.text_encoder
        if not self._frozen_tower:
            self._frozen_tower.append(self._load_frozen_tower().eval().requires_grad_(False))
        return self._frozen_tower[0].to(self.device)

    def _load_frozen_tower(self) -> TextEncoder:
        raise ValueError("the model has no text encoder; load it as a LangCell")

    def encode_cell(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, cls_only: bool = False
    ) -> CellFeatures:
        """Encode tokenised cells.

        Parameters
        ----------
        input_ids
            CLS and gene tokens in rank order, shape (n_cells, t).
        attention_mask
            Shape (n_cells, t), nonzero for real tokens; None if there is no padding.
        cls_only
            Do not compute the states needed for matching; faster, with the same features.
        """
        states, pooled = self.cell_encoder.encode(input_ids, attention_mask, cls_only=cls_only)
        features = functional.normalize(self.cell_projection(pooled), dim=-1)
        if attention_mask is not None and not cls_only:
            attention_mask = attention_mask[:, : states.shape[1]]  # the mask of the states
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
        """Project pooled texts (n, text hidden) to unit-norm features (n, embedding_dim)."""
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
            Shape (n,): pair i is text `text_rows[i]` with cell `cell_rows[i]`. None means row i.

        Returns
        -------
        Tensor
            Logits, shape (n, 2); index 1 is 'match'.
        """
        self.config.check_has_texts()
        # Keys and values are projected once per cell, and only for cells that occur in a pair.
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
        """Return logits over the vocabulary for each state, (..., hidden) to (..., vocab_size)."""
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
