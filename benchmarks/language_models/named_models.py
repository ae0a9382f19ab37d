"""Build arena methods from the language models that a user names."""

import os
from dataclasses import dataclass

from benchmarks.arena.results import Method
from benchmarks.language_models.chat import Endpoint, EndpointChat
from benchmarks.language_models.method import Price, language_model_method
from ontology.graph import Ontology
from zeroshot.annotation.text_states import cache_folder

_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class LanguageModels:
    """Language models to benchmark."""

    served: tuple[str, ...] = ()  # names at the endpoint
    endpoint: str = ""
    local: tuple[str, ...] = ()  # folders or hub ids of Hugging Face models
    device: str = "cpu"  # of local models
    prompt: str = "zero-shot"
    price: str = "0,0"  # see Price.parse


def language_models(named: LanguageModels, ontology: Ontology) -> tuple[Method, ...]:
    """Return an arena method for each language model.

    Raises
    ------
    ValueError, OSError
        If the endpoint is missing, or a model cannot be loaded.
    """
    price, store = Price.parse(named.price), cache_folder() / "replies"
    found = []
    for name in named.served:
        endpoint = Endpoint(url=named.endpoint, model=name, key=os.environ.get(_KEY, ""))
        chat = EndpointChat(endpoint, store)
        found.append(language_model_method(chat, ontology, prompt=named.prompt, price=price))
    for name in named.local:
        from benchmarks.language_models.local_chat import (
            LocalChat,  # transformers takes seconds to import
        )

        local = LocalChat(name, store, device=named.device)
        found.append(language_model_method(local, ontology, prompt=named.prompt, price=price))
    return tuple(found)
