"""Cache of the token states of label texts, on disk and in memory."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.features import TextFeatures
from langcell.runtime.output_file import replaced_file

_IN_MEMORY = 1024  # cached texts; 60 tokens take 46 kB


def cache_folder() -> Path:
    """Return the cache folder: LANGCELL_CACHE, or `langcell` in the cache folder of the user."""
    if named := os.environ.get("LANGCELL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "langcell"


class TextStateCache:
    """Cache of the token states that the text tower computes for each text.

    Files are named by hashes of tower and text and written atomically, so several runs can share the
    folder. If it is not writable, states are cached in memory only.

    Parameters
    ----------
    model: model with the text tower
    folder: cache folder; by default a folder for this tower in `cache_folder()`, or memory only for
        a fine-tuned tower that was not loaded from or saved to a checkpoint
    """

    def __init__(self, model: LangCell, folder: Path | None = None) -> None:
        self.model = model
        self.folder = folder or _tower_folder(model)
        self._recent: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()

    def get(self, texts: list[str], *, width: int) -> TextFeatures:
        """Return the token states of texts of at most `width` tokens, padded to `width`.

        Each text is encoded alone, so its states do not depend on the others.
        """
        entries = [self._entry(text) for text in texts]
        hidden = entries[0]["states"].shape[1]
        states = np.zeros((len(texts), width, hidden), dtype=np.float32)
        input_ids = np.zeros((len(texts), width), dtype=np.int64)
        mask = np.zeros((len(texts), width), dtype=np.int64)
        for row, entry in enumerate(entries):
            n_tokens = len(entry["input_ids"])
            states[row, :n_tokens] = entry["states"]
            input_ids[row, :n_tokens] = entry["input_ids"]
            mask[row, :n_tokens] = 1
        pooled = torch.from_numpy(np.stack([entry["pooled"] for entry in entries])).float()
        device = self.model.device
        return TextFeatures(
            input_ids=torch.from_numpy(input_ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            states=torch.from_numpy(states).to(device),
            pooled=pooled.to(device),
            features=self.model.project_text(pooled.to(device)),
        )

    def n_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._entry(text)["input_ids"])

    def _entry(self, text: str) -> dict[str, np.ndarray]:
        if text in self._recent:
            self._recent.move_to_end(text)
            return self._recent[text]
        path = None
        if self.folder is not None:
            path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        entry = _read(path) if path else None
        if entry is None:
            entry = self._encode(text)
            if path:
                _write(path, entry)
        self._recent[text] = entry
        if len(self._recent) > _IN_MEMORY:
            self._recent.popitem(last=False)
        return entry

    def _encode(self, text: str) -> dict[str, np.ndarray]:
        with inference(self.model), inference(self.model.text_tower()):
            encoded = self.model.encode_text(*self.model.tokenize_texts([text]))
        return {
            "input_ids": encoded.input_ids[0].cpu().numpy().astype(np.int32),
            "states": encoded.states[0].cpu().numpy().astype(np.float16),
            "pooled": encoded.pooled[0].cpu().numpy().astype(np.float16),
        }


def _tower_folder(model: LangCell) -> Path | None:
    """Return the folder of a tower, by the hash of its weights; None if a tuned tower has none."""
    text = model.config.text
    if not (text.frozen or model.sha256):
        return None
    weights = text.sha256 if text.frozen else model.sha256
    settings = f"{text.tower} {text.revision} {weights} {text.max_tokens} {text.pooling}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return cache_folder() / "text-states" / key


def _read(path: Path) -> dict[str, np.ndarray] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None  # missing or damaged: computed again


def _write(path: Path, entry: dict[str, np.ndarray]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary:
            save_file(entry, temporary)
    except OSError:
        return  # not writable: computed again next time
