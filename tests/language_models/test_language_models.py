"""Language models as methods: a fake endpoint, a tiny local model, and how answers are read."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data.marker_lists import MarkerLists
from benchmarks.data.named_answers import BroadTypes
from benchmarks.language_models.chat import Endpoint, EndpointChat, Reply
from benchmarks.language_models.method import LanguageModel, Price
from benchmarks.language_models.named_models import LanguageModels, language_models
from benchmarks.scoring.answer_terms import AnswerTerms
from ontology.graph import Ontology
from zeroshot.decide.puzzles import Puzzle

QUESTION = [{"role": "user", "content": "What are these?"}]


class FakeServer(ThreadingHTTPServer):
    """Gives the scripted answers in turn, the last one for ever; keeps what it was asked."""

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.asked, self.keys = list(script), [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append({"path": self.path, **body})
        server.keys.append(self.headers["Authorization"])
        step = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        status, answer, seconds = step if isinstance(step, tuple) else (200, step, 0)
        time.sleep(seconds)
        payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
        except OSError:
            pass  # who asked no longer waits

    def log_message(self, *words):
        pass


@pytest.fixture
def serve():
    """Start fake servers; they are stopped at the end."""
    servers = []

    def start(*script):
        server = FakeServer(script)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask(tmp_path):
    """Ask a server one question or more, with no waiting between tries."""

    def chat(server, **options):
        endpoint = Endpoint(url=server.url, model="fake", n_at_once=1, **options)
        return EndpointChat(endpoint, tmp_path / "replies", sleep=lambda seconds: None)

    return chat


def said(text):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def test_asks_at_temperature_zero_and_only_once(serve, ask):
    server = serve(said("B cell"))
    first = ask(server, key="secret").replies([QUESTION])
    again = ask(server, key="secret").replies([QUESTION])
    assert first == [Reply(content="B cell", prompt_tokens=100, completion_tokens=10)]
    assert again == [Reply(content="B cell", prompt_tokens=100, completion_tokens=10, is_kept=True)]
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["temperature"], asked["messages"]) == ("fake", 0, QUESTION)
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    "trouble",
    [
        (500, "oops", 0),
        (429, "too many", 0),
        (200, "no json", 0),
        (200, {"choices": []}, 0),
        (200, said("  "), 0),
        (200, said("late"), 1.0),
    ],
    ids=["error", "busy", "no json", "no choice", "empty", "slow"],
)
def test_asks_again_after_trouble(serve, ask, trouble):
    server = serve(trouble, said("B cell"))
    (reply,) = ask(server, timeout=0.3).replies([QUESTION])
    assert reply.content == "B cell"
    assert len(server.asked) == 2


def test_failures_are_counted_and_not_kept(serve, ask, tmp_path):
    questions = [[{"role": "user", "content": str(i)}] for i in range(3)]
    server = serve(said("B cell"), (500, "", 0))
    chat = ask(server, tries=2)
    assert [each.content for each in chat.replies(questions)] == ["B cell", None, None]
    assert len(server.asked) == 1 + 2 + 2
    assert len(list((tmp_path / "replies").iterdir())) == 1


def test_a_bad_request_is_not_repeated(serve, ask):
    server = serve(said("B cell"), (400, "too long", 0))
    questions = [QUESTION, [{"role": "user", "content": "long"}]]
    assert [each.content for each in ask(server).replies(questions)] == ["B cell", None]
    assert len(server.asked) == 2


def test_an_endpoint_that_never_answers_stops_the_run(serve, ask):
    server = serve((500, "", 0))
    with pytest.raises(OSError, match=r"no usable reply from http://127.*: HTTP 500"):
        ask(server, tries=2).replies([QUESTION] * 100)
    assert len(server.asked) <= 10


def test_a_refused_key_is_said_at_once(serve, ask):
    server = serve((401, "", 0))
    with pytest.raises(OSError, match="denies access to fake: HTTP 401"):
        ask(server).replies([QUESTION])
    assert len(server.asked) == 1


def test_without_endpoint_one_line_says_so():
    with pytest.raises(ValueError, match="gpt-x needs an endpoint.*set .* or OPENAI_BASE_URL"):
        language_models(LanguageModels(served=("gpt-x",)), Ontology.bundled())


def test_price_is_two_numbers():
    assert Price.parse("2.5,10") == Price(prompt=2.5, completion=10)
    with pytest.raises(ValueError, match="two numbers, as 2.5,10; got '3'"):
        Price.parse("3")


@pytest.fixture(scope="module")
def lists():
    """Two lists, of B cells and of hepatocytes."""
    ontology = Ontology.bundled()
    broad = BroadTypes([("CL:0000236", frozenset({"b cell"}))], ontology)
    return MarkerLists(
        path=Path("lists.csv"),
        datasets=np.array(["one", "two"], dtype=object),
        tissues=np.array(["PBMC", ""], dtype=object),
        genes=(("MS4A1", "CD79A"), ("ALB", "APOA1")),
        truth=(broad.answer("CL:0000236"), broad.answer("CL:0000182")),
        recorded={},
        worded=frozenset(),
        broad_types=broad,
    )


def test_names_lists_and_counts_cost(serve, ask, lists):
    server = serve(said("The most likely cell type is **B cells**."), said("some liver thing"))
    price = Price(prompt=10_000, completion=1_000)
    model = LanguageModel(ask(server), Ontology.bundled(), prompt="zero-shot", price=price)
    found = model.answers(lists)
    assert found[0].terms == {"CL:0000236"}
    assert found[0].broad == {"b cell"}
    assert (found[1].label, found[1].terms) == ("some liver thing", frozenset())
    assert "MS4A1, CD79A" in server.asked[0]["messages"][1]["content"]
    assert model.notes == (
        "2 replies, 0 of them cached, 0 failed; 200 prompt tokens and 20 completion tokens, "
        "2.02 dollars",
        "1 answers are not a term of the ontology",
    )


def test_chain_of_thought_concludes_from_the_reasoning(serve, ask, lists):
    server = serve(said("MS4A1 is CD20."), (400, "", 0), said("B cell"))
    model = LanguageModel(ask(server), Ontology.bundled(), prompt="cot", price=Price())
    found = model.answers(lists)
    assert [each.label for each in found] == ["B cell", ""]
    assert "step by step. MS4A1 is CD20. In summary" in server.asked[2]["messages"][1]["content"]
    assert "3 replies" in model.notes[0]
    assert "1 failed" in model.notes[0]


def test_matches_puzzles_and_refuses_other_forms(serve, ask):
    server = serve(said("<think>x</think>\n<answer>B cell | T cell</answer>"), said("B, then T"))
    model = LanguageModel(ask(server), Ontology.bundled(), prompt="zero-shot", price=Price())
    puzzles = [Puzzle(cells=(0, 1), labels=("B cell", "T cell"), context=c) for c in ("a", "b")]
    found = model.puzzle_answers(puzzles, [("MS4A1",), ("CD3D",)])
    assert found == [("B cell", "T cell"), None]
    assert "Cell 1: MS4A1" in server.asked[0]["messages"][1]["content"]


@pytest.mark.parametrize(
    ("text", "term_id"),
    [
        ("B cell", "CL:0000236"),
        ("B cells.", "CL:0000236"),
        ("We see MS4A1.\n\nThe most likely cell type is: **B cell**", "CL:0000236"),
        ("In summary, the most likely cell type is a B cell.", "CL:0000236"),
        ("B cells (CD20+)", "CL:0000236"),
        ("Hepatocyte or cholangiocyte", None),
        ("I cannot tell", None),
        ("", None),
        (None, None),
        ("B cell " * 40, None),
    ],
)
def test_reads_terms_from_answers(lists, text, term_id):
    found = AnswerTerms(Ontology.bundled(), lists.broad_types).answer(text)
    assert found.term_id == term_id


def test_a_local_model_writes_and_its_replies_are_kept(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from benchmarks.language_models.local_chat import LocalChat

    words = {
        word: i for i, word in enumerate(("<eos>", "<unk>", "B", "cell", "What", "are", "these"))
    }
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path / "tiny")
    config = GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=8, n_layer=1, n_head=1, eos_token_id=None,
        bos_token_id=None,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "tiny")
    chats = [LocalChat(str(tmp_path / "tiny"), tmp_path / "kept", max_tokens=4) for _ in range(2)]
    (first,), (again,) = (chat.replies([QUESTION]) for chat in chats)
    assert chats[0].name == "tiny"
    assert first.completion_tokens == 4
    assert first.prompt_tokens == 4
    assert (again.content, again.is_kept) == (first.content, first.content is not None)
