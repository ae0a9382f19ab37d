"""The hub without a network: what is asked of it, what is cached, and what is said when it fails."""

import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import RepositoryNotFoundError, RevisionNotFoundError

from langcell.checkpoints import hub
from langcell.checkpoints.checkpoint import resolve_checkpoint
from langcell.model.langcell import LangCell

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def cache(tiny_model, tmp_path, monkeypatch):
    """A cache that holds two revisions of someone/model, and no way to the hub."""
    repository = tmp_path / "cache" / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    for name, commit in COMMITS.items():
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(tiny_model, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_is_online", lambda: False)
    return repository


def answered(kind, text="404 Client Error.\nRepository Not Found for url"):
    """Return an error of the client of the hub, without the answer that it would hold."""

    class Answered(kind):
        def __init__(self):
            Exception.__init__(self, text)

    return Answered()


def test_a_revision_is_pinned_in_the_name_or_beside_it(cache):
    snapshots = cache / "snapshots"
    assert resolve_checkpoint("someone/model") == snapshots / COMMITS["main"]
    assert resolve_checkpoint("someone/model@v1") == snapshots / COMMITS["v1"]
    assert resolve_checkpoint("someone/model", revision="v1") == snapshots / COMMITS["v1"]
    assert resolve_checkpoint(f"someone/model@{COMMITS['v1']}") == snapshots / COMMITS["v1"]
    with pytest.raises(ValueError, match="already has a revision, but got revision 'main' too"):
        resolve_checkpoint("someone/model@v1", revision="main")
    with pytest.raises(ValueError, match="revision 'v1' needs a hub id, but 'mini' is a local"):
        LangCell.from_pretrained("mini", revision="v1")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nomodel", r"no folder 'nomodel', and 'nomodel' .* is not in the local cache, and there"),
        ("someone/model@v9", r"not in the local cache at revision 'v9', and there is no network"),
    ],
)
def test_without_network_the_line_says_what_is_missing(cache, name, said):
    with pytest.raises(OSError, match=said) as caught:
        LangCell.from_pretrained(name)
    message = str(caught.value)
    assert message.endswith("bundled models: mini, mini-fast")
    assert "\n" not in message and "local_files_only" not in message


def test_a_cached_copy_without_its_weights_is_named(cache):
    (cache / "snapshots" / COMMITS["main"] / "model.safetensors").unlink()
    said = r"has no model\.safetensors in the local cache, and there is no network"
    with pytest.raises(OSError, match=said):
        LangCell.from_pretrained("someone/model")


def test_offline_mode_is_respected(cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = []

    def download(repo_id, **how):
        asked.append(how["local_files_only"])
        raise FileNotFoundError("Cannot find an appropriate cached snapshot folder")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(OSError, match="not in the local cache, and HF_HUB_OFFLINE is set"):
        resolve_checkpoint("someone/other")
    with pytest.raises(OSError, match="cannot be uploaded: HF_HUB_OFFLINE is set"):
        hub.upload(cache, "someone/other", message="x")
    assert asked == [True]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answered(RepositoryNotFoundError), "repository does not exist or is private; log in"),
        (answered(RevisionNotFoundError), "it has no revision 'v9'"),
        (ConnectionError("cut off\nand more"), "hub: cut off;"),
    ],
)
def test_what_the_hub_answers_is_one_line(monkeypatch, error, said):
    def download(_repo_id, **_how):
        raise error

    monkeypatch.setattr(hub, "_is_online", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(OSError, match=said) as caught:
        resolve_checkpoint("someone/model@v9")
    assert "\n" not in str(caught.value)


class FakeHub:
    """Keeps what is uploaded, as the hub's own interface would."""

    calls: list[tuple[str, str]] = []
    files: set[str] = set()

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.calls.append(("repo", f"{repo_id} {private}"))

    def create_branch(self, repo_id, *, branch, exist_ok):
        assert exist_ok
        self.calls.append(("branch", f"{repo_id} {branch}"))

    def upload_folder(self, *, folder_path, repo_id, revision, commit_message):
        FakeHub.files = {path.name for path in folder_path.iterdir()}
        self.calls.append(("upload", f"{repo_id} {revision} {commit_message}"))
        return SimpleNamespace(oid="c" * 40)


def test_a_model_is_pushed_in_one_commit(tiny_model, monkeypatch):
    monkeypatch.setattr(hub, "_is_online", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    model = LangCell.from_pretrained(tiny_model)
    assert model.push_to_hub("me/cells", private=True, revision="v2", message="Fix") == "c" * 40
    assert FakeHub.calls == [
        ("repo", "me/cells True"),
        ("branch", "me/cells v2"),
        ("upload", "me/cells v2 Fix"),
    ]
    assert FakeHub.files == {
        "config.json", "model.safetensors", "genes.tsv", "labels.tsv", "labels.safetensors"
    }  # fmt: skip


def test_a_push_that_is_refused_says_why(tiny_model, monkeypatch):
    class Refusing(FakeHub):
        def create_repo(self, repo_id, *, private, exist_ok):
            raise answered(RepositoryNotFoundError)

    monkeypatch.setattr(hub, "_is_online", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi", Refusing)
    with pytest.raises(OSError, match="'me/cells' could not be uploaded .* log in with HF_TOKEN"):
        LangCell.from_pretrained(tiny_model).push_to_hub("me/cells")
