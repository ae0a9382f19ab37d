"""Texts to token ids and to pooled vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from langcell.bert import inference

if TYPE_CHECKING:
    from langcell.model import LangCell


def tokenize_texts(model: "LangCell", texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of texts, both (n_texts, t), on the model's device."""
    encoded = model.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=model.config.text.max_tokens,
        return_tensors="pt",
    )
    return encoded["input_ids"].to(model.device), encoded["attention_mask"].to(model.device)


def pool_texts(model: "LangCell", texts: Sequence[str], *, batch_size: int) -> np.ndarray:
    """Return what the text tower makes of each text before the projection.

    Equal texts are encoded once.

    Returns
    -------
    numpy.ndarray
        float32, shape (n_texts, text hidden size).
    """
    tower = model.text_tower()
    unique = sorted(set(texts), key=lambda text: (len(text), text))  # little padding in a batch
    pooled = np.empty((len(unique), model.config.text.hidden_size), dtype=np.float32)
    with inference(tower):
        for start in range(0, len(unique), batch_size):
            ids, mask = tokenize_texts(model, unique[start : start + batch_size])
            pooled[start : start + batch_size] = tower.pool(tower(ids, mask), mask).cpu().numpy()
    place = {text: row for row, text in enumerate(unique)}
    return pooled[np.array([place[text] for text in texts], dtype=np.intp)]
