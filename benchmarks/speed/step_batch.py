"""Simulated batch of the paper's sizes, and training steps by langcell and by transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from langcell.model.langcell import LangCell
from langcell.nn.config import CellEncoderConfig, LangCellConfig, TextEncoderConfig
from langcell.nn.features import TextFeatures
from pretrain.recipe.config import Losses
from pretrain.steps.collator import StepBatch
from pretrain.steps.gradient import add_gradients
from pretrain.steps.objective import Objective
from pretrain.texts.step_texts import TextTokens
from pretrain.texts.text_tensors import TextTensors

# The paper's encoders: 12 layers of 512 for cells, BERT base for texts.
CELL = CellEncoderConfig(
    vocab_size=25_427,
    hidden_size=512,
    n_layers=12,
    n_heads=8,
    intermediate_size=1024,
    hidden_act="relu",
    max_positions=2048,
    dropout=0.02,
    attention_dropout=0.0,
)
TEXT = TextEncoderConfig(
    hidden_size=768,
    n_layers=12,
    n_heads=12,
    intermediate_size=3072,
    frozen=False,
    sha256="",
    attention_dropout=0.0,
)
TEXT_TOKENS = 64
_N_TYPES = 1000  # each with one text
_MASKED = 0.15
_WIDTH = 256  # of the embeddings
_SCALE = 20.0


def draw_lengths(n_cells: int, longest: int, seed: int) -> np.ndarray:
    """Return genes per cell as in atlases: log-normal, median 1,100, truncated at `longest`."""
    drawn = np.random.default_rng(seed).lognormal(np.log(1100), 0.6, n_cells)
    return np.clip(drawn, 50, longest).astype(int)


def draw_types(n_cells: int, seed: int) -> np.ndarray:
    """Return the type of each cell: 1,000 types by Zipf's law."""
    shares = 1 / np.arange(1, _N_TYPES + 1)
    return np.random.default_rng(seed).choice(_N_TYPES, n_cells, p=shares / shares.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedBatch:
    """Cells, a mask of genes to predict, and the text of each cell.

    Attributes
    ----------
    ids, mask
        Genes of the cells, both (n_cells, width); the mask is bool.
    masked
        True where a gene is to be predicted, shape (n_cells, width).
    types
        Type, and so text, of each cell, shape (n_cells,).
    text_ids
        Token ids of all texts, shape (1000, 64).
    """

    ids: Tensor
    mask: Tensor
    masked: Tensor
    types: Tensor
    text_ids: Tensor

    @classmethod
    def draw(cls, n_cells: int, seed: int, device: str) -> "SimulatedBatch":
        """Draw a batch."""
        lengths = torch.from_numpy(draw_lengths(n_cells, CELL.max_positions - 1, seed) + 1)
        generator = torch.Generator().manual_seed(seed)
        shape = (n_cells, int(lengths.max()))
        ids = torch.randint(2, CELL.vocab_size - 1, shape, generator=generator)
        mask = torch.arange(shape[1])[None, :] < lengths[:, None]
        masked = mask & (torch.rand(shape, generator=generator) < _MASKED)
        texts = torch.randint(1000, TEXT.vocab_size, (_N_TYPES, TEXT_TOKENS), generator=generator)
        types = torch.from_numpy(draw_types(n_cells, seed))
        made = (ids, mask, masked, types, texts)
        return cls(
            **dict(zip(cls.__annotations__, (each.to(device) for each in made), strict=True))
        )


def prepare_ours(n_cells: int, device: str, seed: int, compiled: bool) -> Callable[[], Any]:
    """Return a pretraining step of langcell: masked genes, cell-cell and cell-text contrast."""
    drawn = SimulatedBatch.draw(n_cells, seed, device)
    config = LangCellConfig(cell=CELL, text=TEXT, embedding_dim=_WIDTH, max_genes=2047)
    model = LangCell(config).to(device).train()
    for encoder in (model.cell_encoder, model.text_encoder):
        encoder.stack.pack = True  # type: ignore[union-attr]
    if compiled:
        model.cell_encoder.stack.compile_blocks()  # type: ignore[union-attr, operator]
    objective = Objective(
        model=model,
        texts=_texts(drawn),
        weights=Losses(masked_gene=1, cell_cell=1, cell_text=1, matching=0, ontology=0),
    )
    batch = _step_batch(drawn)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            add_gradients(objective, batch)
        model.zero_grad()

    return step


def _step_batch(drawn: SimulatedBatch) -> StepBatch:
    rows, columns = drawn.masked.nonzero(as_tuple=True)
    n_cells, device = len(drawn.ids), drawn.ids.device
    return StepBatch(
        step=0,
        input_ids=torch.cat([drawn.ids.masked_fill(drawn.masked, 1), drawn.ids]),
        attention_mask=drawn.mask.repeat(2, 1),
        masked_rows=rows,
        masked_columns=columns,
        masked_genes=drawn.ids[rows, columns],
        measured=torch.ones(n_cells, CELL.n_genes, dtype=torch.bool, device=device),
        terms=drawn.types,
        aspects=torch.full((n_cells, 3), -1, device=device),
        texts=drawn.types.unique(),
        labels=torch.arange(0, device=device),
    )


def _texts(drawn: SimulatedBatch) -> TextTensors:
    none = torch.empty(0)
    ids = drawn.text_ids
    return TextTensors(
        pooled=none,
        term=torch.arange(_N_TYPES, device=ids.device),
        aspects=torch.full((_N_TYPES, 3), -1, device=ids.device),
        templates=TextFeatures(
            input_ids=none, attention_mask=none, states=none, pooled=none, features=none
        ),
        template_rows=none,
        comparable=torch.eye(_N_TYPES, dtype=torch.bool, device=ids.device),
        labels=none,
        descriptions=none,
        targets=none,
        label_comparable=none,
        descendants=None,
        tokens=TextTokens(input_ids=ids, attention_mask=torch.ones_like(ids), n_texts=_N_TYPES),
    )


class PlainModel(nn.Module):
    """The same encoders and losses with transformers, as in its examples.

    Rows are padded to the longest, gene logits are computed at every position, and texts are encoded
    once per cell.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertForMaskedLM, BertModel

        self.cells = BertForMaskedLM(bert_config(CELL))
        self.texts = BertModel(bert_config(TEXT), add_pooling_layer=False)
        self.cell_projection = nn.Linear(CELL.hidden_size, _WIDTH)
        self.text_projection = nn.Linear(TEXT.hidden_size, _WIDTH)

    def forward(self, drawn: SimulatedBatch) -> Tensor:
        """Return the sum of the losses."""
        masked = self.cells(
            input_ids=drawn.ids.masked_fill(drawn.masked, 1),
            attention_mask=drawn.mask.long(),
            labels=drawn.ids.masked_fill(~drawn.masked, -100),
            output_hidden_states=True,
        )
        second = self.cells.bert(input_ids=drawn.ids, attention_mask=drawn.mask.long())
        texts = self.texts(input_ids=drawn.text_ids[drawn.types]).last_hidden_state.mean(dim=1)
        first = functional.normalize(self.cell_projection(masked.hidden_states[-1][:, 0]), dim=-1)
        other = functional.normalize(self.cell_projection(second.last_hidden_state[:, 0]), dim=-1)
        described = functional.normalize(self.text_projection(texts), dim=-1)
        return masked.loss + _clip(first, other) + _clip(first, described)


def _clip(one: Tensor, other: Tensor) -> Tensor:
    logits = _SCALE * one @ other.T
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def prepare_plain(n_cells: int, device: str, seed: int) -> Callable[[], Any]:
    """Return the step of `prepare_ours` with transformers."""
    drawn = SimulatedBatch.draw(n_cells, seed, device)
    model = PlainModel().to(device).train()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(drawn)
        loss.backward()
        model.zero_grad()

    return step


def bert_config(config: CellEncoderConfig | TextEncoderConfig) -> Any:
    """Return the configuration of transformers for the same sizes."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        max_position_embeddings=config.max_positions,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
    )
