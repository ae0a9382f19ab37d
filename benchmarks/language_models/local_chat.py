"""Chat client for Hugging Face language models on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.language_models.chat import Message, Reply, ReplyStore


class LocalChat:
    """Chat client that decodes greedily, one question at a time.

    Weights are read from safetensors only, and no code of a repository is run.

    Parameters
    ----------
    model: folder or hub id
    store: cache folder of the replies
    max_tokens: maximum tokens per reply

    Raises
    ------
    OSError, ValueError
        If the model cannot be loaded.
    """

    def __init__(
        self, model: str, store: Path, *, device: str = "cpu", max_tokens: int = 1024
    ) -> None:
        self.name = Path(model).name
        self.identity = f"{model} {_files(Path(model))} {max_tokens}"
        self._store = ReplyStore(store, self.identity)
        self._max_tokens = max_tokens
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        loaded = cast(Any, AutoModelForCausalLM.from_pretrained(model, use_safetensors=True))
        self._model = loaded.to(device).eval()

    def replies(self, questions: Sequence[Sequence[Message]]) -> list[Reply]:
        """Return a reply to each list of messages."""
        return [self._store.get(each) or self._reply(each) for each in questions]

    @torch.inference_mode()
    def _reply(self, question: Sequence[Message]) -> Reply:
        text = self._text(question)
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        ids = ids.to(self._model.device)  # (1, n_prompt)
        left = getattr(self._model.config, "max_position_embeddings", None) or float("inf")
        left -= ids.shape[1]
        if left < 1:  # the question is longer than the context of the model
            return Reply(content=None, prompt_tokens=0)
        written = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=int(min(self._max_tokens, left)),
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
        )[0, ids.shape[1] :]
        content = self._tokenizer.decode(written, skip_special_tokens=True)
        reply = Reply(
            content=content.strip() or None,
            prompt_tokens=ids.shape[1],
            completion_tokens=len(written),
        )
        if reply.content is not None:
            self._store.put(question, reply)
        return reply

    def _text(self, question: Sequence[Message]) -> str:
        if self._tokenizer.chat_template:
            return str(
                self._tokenizer.apply_chat_template(
                    list(question), tokenize=False, add_generation_prompt=True
                )
            )
        return "\n\n".join(each["content"] for each in question) + "\n\n"


def _files(folder: Path) -> str:
    """Return names and sizes of the weight files of a folder; '' for a hub id."""
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return " ".join(f"{path.name}:{path.stat().st_size}" for path in found)
