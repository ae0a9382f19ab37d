"""Client for language models behind an OpenAI-compatible chat completions endpoint.

The temperature is 0, and every reply is cached on disk, so that a question is paid for only once. A
question without a usable reply is retried a few times, and then counts as failed.
"""

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option

Message = dict[str, str]  # role and content
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # temporary errors, which are retried
_NO_ACCESS = (401, 403, 404)  # permanent errors, for any question
_FEW = 5  # stop if the first questions all fail
_MANY = 20  # stop if so many fail in a row
_LONGEST_WAIT = 60.0  # seconds, also if Retry-After is longer


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Reply to a question.

    Attributes
    ----------
    content: text; None if there was no usable reply
    is_kept: True if it came from the cache and cost nothing
    """

    content: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_kept: bool = False


class Chat(Protocol):
    """Protocol of chat clients."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    @property
    def identity(self) -> str:
        """Everything but the messages that the replies depend on."""
        ...

    def replies(self, questions: Sequence[Sequence[Message]]) -> list[Reply]:
        """Return a reply to each list of messages."""
        ...


class ReplyStore:
    """Disk cache of replies, by model and question."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def get(self, question: Sequence[Message]) -> Reply | None:
        """Return a cached reply, if any."""
        path = self._path(question)
        if not path.is_file():
            return None
        return Reply(**{**json.loads(path.read_text(encoding="utf-8")), "is_kept": True})

    def put(self, question: Sequence[Message], reply: Reply) -> None:
        """Cache a reply."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(self._path(question)) as temporary:
            temporary.write_text(json.dumps(asdict(reply)), encoding="utf-8")

    def _path(self, question: Sequence[Message]) -> Path:
        text = json.dumps([self._identity, list(question)], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Endpoint and request settings."""

    url: str  # without /chat/completions
    model: str
    key: str = ""  # sent as bearer token
    max_tokens: int = 1024  # per reply
    timeout: float = 120.0  # seconds per request
    tries: int = 4
    pause: float = 1.0  # seconds before the first retry; doubles
    n_at_once: int = 4

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"the language model {self.model} needs an endpoint, such as http://localhost:8000/v1; "
                f"got {self.url!r}: set {option('url', flag='--endpoint')} or OPENAI_BASE_URL"
            )


class EndpointChat:
    """Chat client of an endpoint.

    Parameters
    ----------
    store: cache folder of the replies
    sleep: waits before a retry
    """

    def __init__(
        self, endpoint: Endpoint, store: Path, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = endpoint.model
        self.identity = f"{endpoint.url} {endpoint.model} {endpoint.max_tokens}"
        self._endpoint = endpoint
        self._store = ReplyStore(store, self.identity)
        self._sleep = sleep

    def replies(self, questions: Sequence[Sequence[Message]]) -> list[Reply]:
        """Return a reply to each list of messages.

        Raises
        ------
        OSError
            If the endpoint denies access, the first questions all fail, or many fail in a row. Earlier
            replies are cached, so the same run can be resumed.
        """
        first, rest = questions[:_FEW], questions[_FEW:]
        pool = ThreadPoolExecutor(self._endpoint.n_at_once)
        try:
            found = list(pool.map(self._reply, first))
            errors = [error for _, error in found if error]
            if found and len(errors) == len(found):
                raise OSError(f"no usable reply from {self._endpoint.url}: {errors[-1]}")
            in_a_row = 0
            for reply, error in pool.map(self._reply, rest):
                found.append((reply, error))
                in_a_row = in_a_row + 1 if error else 0
                if in_a_row == _MANY:
                    raise OSError(
                        f"no usable reply from {self._endpoint.url} to {_MANY} questions in a row: "
                        f"{error}"
                    )
        finally:
            # An error must not wait for the remaining questions.
            pool.shutdown(cancel_futures=True)
        return [reply for reply, _ in found]

    def _reply(self, question: Sequence[Message]) -> tuple[Reply, str]:
        """Return a reply, and the error if it has no content."""
        kept = self._store.get(question)
        if kept is not None:
            return kept, ""
        error, asked_to_wait = "", 0.0
        for number in range(self._endpoint.tries):
            if number:
                self._sleep(max(self._endpoint.pause * 2 ** (number - 1), asked_to_wait))
                asked_to_wait = 0.0
            try:
                reply = _parse(self._ask(question))
            except urllib.error.HTTPError as refusal:
                error = f"HTTP {refusal.code} {refusal.reason}"
                if refusal.code in _NO_ACCESS:
                    raise OSError(
                        f"{self._endpoint.url} denies access to {self.name}: {error}"
                    ) from refusal
                if refusal.code not in _AGAIN:
                    break
                asked_to_wait = _seconds(refusal.headers.get("Retry-After"))
            except (OSError, ValueError, http.client.HTTPException) as problem:
                error = str(problem) or type(problem).__name__
            else:
                self._store.put(question, reply)
                return reply, ""
        return Reply(content=None), error

    def _ask(self, question: Sequence[Message]) -> Any:
        body = {
            "model": self._endpoint.model,
            "messages": list(question),
            "temperature": 0,
            "max_tokens": self._endpoint.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if self._endpoint.key:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        request = urllib.request.Request(
            f"{self._endpoint.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=self._endpoint.timeout) as response:
            return json.loads(response.read())


def _seconds(given: str | None) -> float:
    """Return the seconds of a Retry-After header, 0 if it is missing or a date."""
    return min(float(given), _LONGEST_WAIT) if given and given.strip().isdigit() else 0.0


def _parse(answer: Any) -> Reply:
    """Parse the reply of a response; raise ValueError if it is malformed."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the response has no choices[0].message.content") from error
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the response is empty")
    usage = answer.get("usage") or {}
    return Reply(
        content=content,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )
