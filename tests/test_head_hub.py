"""Heads on the hub, without a network."""

import shutil
from types import SimpleNamespace

import pytest

from langcell import hub
from langcell.model import LangCell
from zeroshot.few_shot import fit_few_shot
from zeroshot.few_shot_options import FewShotOptions
from zeroshot.head_file import write_head
from zeroshot.head_hub import load_head, push_head

COMMIT = "b" * 40


@pytest.fixture
def head(make_cells, tiny_bag, tmp_path):
    model = LangCell.from_pretrained(str(tiny_bag))
    fitted = fit_few_shot(
        make_cells(12), "cell_type", model=model, options=FewShotOptions(target="state")
    )
    write_head(fitted.head, tmp_path / "head", card="A card.")
    return tmp_path / "head"


@pytest.fixture
def cache(head, tmp_path, monkeypatch):
    """A cache that holds someone/head at v1, and no way to the hub."""
    repository = tmp_path / "cache" / "models--someone--head"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(COMMIT)
    shutil.copytree(head, repository / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_is_online", lambda: False)
    return repository / "snapshots" / COMMIT


def test_a_head_is_loaded_by_its_name(head, cache):
    here = load_head(str(head)).identifier
    assert load_head("someone/head@v1").identifier == here
    assert load_head(head).identifier == here
    (cache / "calibration.json").unlink()
    with pytest.raises(OSError, match=r"has no calibration\.json in the copy in the local cache"):
        load_head("someone/head@v1")


def test_a_head_that_is_nowhere_is_named(cache):
    with pytest.raises(OSError, match="no folder 'someone/head@v9', and .* there is no network"):
        load_head("someone/head@v9")
    with pytest.raises(FileNotFoundError, match="no folder 'my-head' of a head; make one with"):
        load_head("my-head")


class FakeHub:
    """Keeps what is uploaded, as the hub's own interface would."""

    calls: list[str] = []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(f"repo {repo_id} {private}")

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(f"branch {repo_id} {branch}")

    def upload_folder(self, *, folder_path, repo_id, revision, commit_message):
        self.calls.append(f"upload {sorted(path.name for path in folder_path.iterdir())}")
        return SimpleNamespace(oid="c" * 40)


def test_a_head_is_pushed_whole(head, monkeypatch):
    monkeypatch.setattr(hub, "_is_online", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    assert push_head(head, "me/head", private=True, revision="v2") == "c" * 40
    assert FakeHub.calls == [
        "repo me/head True",
        "branch me/head v2",
        "upload ['README.md', 'calibration.json', 'head.json', 'head.safetensors']",
    ]
    (head / "head.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="holds no head that can be read"):
        push_head(head, "me/head")
