"""Endpoints that fail in the middle of a run, and questions that a local model cannot read."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.language_models.chat import Endpoint, EndpointChat
from benchmarks.language_models.local_chat import LocalChat

GOOD = json.dumps({"choices": [{"message": {"content": "B cell"}}]}).encode()


@contextmanager
def served(respond):
    """Serve what `respond` says for the number of the request: status, headers, body."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            status, headers, body = respond(len(asked))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat(url, folder, sleep=lambda seconds: None):
    endpoint = Endpoint(url=url, model="fake", n_at_once=1, tries=2)
    return EndpointChat(endpoint, folder, sleep=sleep)


def questions(n):
    return [[{"role": "user", "content": f"question {number}"}] for number in range(n)]


def test_an_answer_that_is_cut_off_is_asked_for_again(tmp_path):
    def respond(number):
        return 200, {"Content-Length": str(len(GOOD) * (2 if number == 1 else 1))}, GOOD

    with served(respond) as (url, asked):
        (reply,) = chat(url, tmp_path).replies(questions(1))
    assert (reply.content, len(asked)) == ("B cell", 2)


def test_a_server_that_dies_stops_the_run_and_what_it_said_is_kept(tmp_path):
    with served(lambda number: (200 if number <= 10 else 500, {}, GOOD)) as (url, asked):
        with pytest.raises(OSError, match=r"to 20 questions in a row: HTTP 500"):
            chat(url, tmp_path).replies(questions(300))
        # One more may be on its way when the run stops.
        assert len(asked) <= 10 + 2 * 22
    assert len(list(tmp_path.iterdir())) == 10


def test_a_busy_server_says_how_long_to_wait(tmp_path):
    waits = []

    def respond(number):
        return (429, {"Retry-After": "7"}, b"") if number == 1 else (200, {}, GOOD)

    with served(respond) as (url, _):
        chat(url, tmp_path, waits.append).replies(questions(1))
    assert waits == [7.0]


def test_a_question_that_is_too_long_for_a_local_model_has_no_reply(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "cell": 2}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path / "tiny")
    config = GPT2Config(
        vocab_size=3, n_positions=8, n_embd=8, n_layer=1, n_head=1, eos_token_id=None,
        bos_token_id=None,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "tiny")
    local = LocalChat(str(tmp_path / "tiny"), tmp_path / "kept", max_tokens=20)
    short, long = local.replies(
        [[{"role": "user", "content": "cell " * n_words}] for n_words in (5, 9)]
    )
    assert (short.prompt_tokens, short.completion_tokens) == (5, 3)
    assert (long.content, long.completion_tokens) == (None, 0)
