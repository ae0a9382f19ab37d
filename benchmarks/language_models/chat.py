"""Language models behind an endpoint that speaks the protocol of OpenAI's chat completions.

Temperature 0, and every reply is kept on disk: a question is paid for once. A question that gets no
usable reply is asked again a few times, and then counts as failed.
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

Message = dict[str, str]  # role and content
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # that may pass
_NO_ACCESS = (401, 403, 404)  # that will not, whatever is asked
_FEW = 5  # questions that fail before any is answered show that the endpoint does not work
_MANY = 20  # that fail one after another show that it works no longer
_LONGEST_WAIT = 60.0  # seconds, whatever an endpoint asks for


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Attributes
    ----------
    content: None where there was no usable reply
    is_kept: it was on disk, and cost nothing now
    """

    content: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_kept: bool = False


class Chat(Protocol):
    """Something that replies to messages."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def identity(self) -> str:
        """All that the replies depend on but the messages."""
        ...

    def replies(self, questions: Sequence[Sequence[Message]]) -> list[Reply]:
        """Return a reply to each list of messages."""
        ...


class ReplyStore:
    """Replies on disk, by model and question."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def get(self, question: Sequence[Message]) -> Reply | None:
        """Return a kept reply."""
        path = self._path(question)
        if not path.is_file():
            return None
        return Reply(**{**json.loads(path.read_text(encoding="utf-8")), "is_kept": True})

    def put(self, question: Sequence[Message], reply: Reply) -> None:
        """Keep a reply."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(self._path(question)) as temporary:
            temporary.write_text(json.dumps(asdict(reply)), encoding="utf-8")

    def _path(self, question: Sequence[Message]) -> Path:
        text = json.dumps([self._identity, list(question)], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask, and how."""

    url: str  # up to and without /chat/completions
    model: str
    key: str = ""  # sent as bearer token
    max_tokens: int = 1024  # of a reply
    timeout: float = 120.0  # seconds of a try
    tries: int = 4
    pause: float = 1.0  # seconds before the second try; doubles
    n_at_once: int = 4

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"the language model {self.model} needs an endpoint, such as http://localhost:8000/v1: "
                f"name it with --endpoint or OPENAI_BASE_URL. Got {self.url!r}."
            )


class EndpointChat:
    """Asks an endpoint.

    Parameters
    ----------
    store: folder of the replies
    sleep: waits before another try
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
            If the endpoint refuses access, none of the first questions is answered, or many in a row
            are not: replies before are kept, and the same run goes on from there.
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
            # What stops a run must not wait for a thousand questions that are left.
            pool.shutdown(cancel_futures=True)
        return [reply for reply, _ in found]

    def _reply(self, question: Sequence[Message]) -> tuple[Reply, str]:
        """Return a reply, and what went wrong if it has no content."""
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
                    raise OSError(f"{self._endpoint.url} refuses {self.name}: {error}") from refusal
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
    """Return what a Retry-After asks for in seconds, 0 where it names a date or nothing."""
    return min(float(given), _LONGEST_WAIT) if given and given.strip().isdigit() else 0.0


def _parse(answer: Any) -> Reply:
    """Return the reply in an answer; a ValueError says what it lacks."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the answer has no choices[0].message.content") from error
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the answer is empty")
    usage = answer.get("usage") or {}
    return Reply(
        content=content,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )
