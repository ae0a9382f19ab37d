"""Tokenise texts and compute their pooled embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from langcell.nn.bert import inference
from langcell.nn.text_encoder import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEXT_BATCH = 64  # texts per batch


def tokenize_texts(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    max_tokens: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of texts, both (n_texts, t), on `device`."""
    encoded = tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)


def pool_texts(
    tower: TextEncoder,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    batch_size: int,
) -> np.ndarray:
    """Encode texts with a text tower and pool them, without the projection.

    Each distinct text is encoded once.

    Returns
    -------
    numpy.ndarray
        float32, shape (n_texts, text hidden size).
    """
    config, device = tower.config, next(tower.parameters()).device
    unique = sorted(set(texts), key=lambda text: (len(text), text))  # little padding in a batch
    pooled = np.empty((len(unique), config.hidden_size), dtype=np.float32)
    with inference(tower):
        for start in range(0, len(unique), batch_size):
            batch = unique[start : start + batch_size]
            ids, mask = tokenize_texts(
                tokenizer, batch, max_tokens=config.max_tokens, device=device
            )
            pooled[start : start + batch_size] = tower.pool(tower(ids, mask), mask).cpu().numpy()
    place = {text: row for row, text in enumerate(unique)}
    return pooled[np.array([place[text] for text in texts], dtype=np.intp)]
