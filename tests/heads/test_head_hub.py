"""Heads on the hub, without a network."""

import shutil
from types import SimpleNamespace

import pytest

from langcell.checkpoints import hub
from langcell.model.langcell import LangCell
from tests.support.command_line import run_langcell
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.options import FewShotOptions
from zeroshot.heads.head_file import write_head
from zeroshot.heads.head_hub import load_head, push_head

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
    with pytest.raises(OSError, match=r"has no calibration\.json in the local cache"):
        load_head("someone/head@v1")


def test_a_head_that_is_nowhere_is_named(cache):
    with pytest.raises(OSError, match="'someone/head@v9' of a head, and .* there is no network"):
        load_head("someone/head@v9")
    with pytest.raises(FileNotFoundError, match="no folder 'my-head' of a head; make one with"):
        load_head("my-head")


@pytest.fixture
def fetched(head, tiny_bag, tmp_path, monkeypatch):
    """Names of the files that a hub with someone/head and someone/model was asked for, in order."""
    names = []

    def download(repo_id, *, allow_patterns, **_how):
        source = {"someone/head": head, "someone/model": tiny_bag}[repo_id]
        target = tmp_path / "fetched" / repo_id
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.iterdir()):
            is_asked_for = any(path.match(pattern) for pattern in allow_patterns)
            if is_asked_for and not (target / path.name).exists():
                shutil.copy(path, target)
                names.append(path.name)
        return str(target)

    monkeypatch.setattr(hub, "_is_online", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return names


def test_weights_are_fetched_last(head, fetched):
    assert load_head("someone/head").identifier == load_head(head).identifier
    assert fetched == ["calibration.json", "head.json", "README.md", "head.safetensors"]


@pytest.mark.parametrize("command", [["zeroshot"], ["fewshot", "predict"]])
def test_a_model_is_no_head_and_its_weights_stay_where_they_are(command, fetched, tmp_path):
    (tmp_path / "cells.h5ad").touch()
    words = [*command, "--h5ad", "cells.h5ad", "--head", "someone/model"]
    done = run_langcell(tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr == (
        "langcell: error: no folder 'someone/model' of a head, and 'someone/model' has no head.json "
        "in the repository; a head is uploaded by langcell fewshot push, and a model is given "
        "as --model\n"
    )
    assert not [name for name in fetched if name.endswith(".safetensors")]


def test_a_head_is_no_model_and_its_weights_stay_where_they_are(fetched):
    with pytest.raises(OSError, match=r"'someone/head' has no config\.json in the repository"):
        LangCell.from_pretrained("someone/head")
    assert "head.safetensors" not in fetched


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
    with pytest.raises(ValueError, match="cannot read the head in"):
        push_head(head, "me/head")
