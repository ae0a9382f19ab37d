import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from zeroshot.annotate.rerank import Reranker
from zeroshot.annotate.text_states import TextStateCache, cache_folder
from zeroshot.scores.scores import Scores

N_CELLS = 64
TEXTS = ("cell type: B cell. ", "cell type: T cell. A lymphocyte. ", "cell type: " + "long " * 40)


@pytest.fixture(scope="module")
def model(tiny_model):
    return LangCell.from_pretrained(str(tiny_model))


@pytest.fixture(scope="module")
def cells(make_cells, model):
    with open_counts(make_cells(N_CELLS)) as matrix:
        return next(iter(embed_cells(model, matrix, states=True))).cells


def test_pairs_have_the_score_that_the_head_gives_each_alone(model, cells, tmp_path):
    reranker = Reranker(model, TEXTS, k=3, cache=TextStateCache(model, tmp_path))
    candidates = np.array([[0, 1, 2], [2, 1, 0]] * (N_CELLS // 2))
    found = reranker.match(candidates, cells)
    assert found.shape == candidates.shape
    for cell, rank in ((0, 0), (1, 0), (N_CELLS - 1, 1)):
        with inference(model):
            text = model.encode_text(*model.tokenize_texts([TEXTS[candidates[cell, rank]]]))
            row = torch.tensor([cell])
            logits = model.match(text, cells, text_rows=torch.tensor([0]), cell_rows=row)
        wanted = torch.log_softmax(logits, -1)[0, 1].item()
        # Token states are kept in half precision.
        assert found[cell, rank] == pytest.approx(wanted, abs=1e-3)


def test_the_better_match_comes_first(model, cells, tmp_path):
    reranker = Reranker(model, TEXTS, k=2, weight=1000, cache=TextStateCache(model, tmp_path))
    n_cells = len(cells.features)
    scores = Scores(
        candidate_ids=tuple("abc"),
        candidates=np.tile(np.array([0, 1, 2], np.int32), (n_cells, 1)),
        log_probabilities=np.tile(np.log(np.array([0.5, 0.3, 0.2], np.float32)), (n_cells, 1)),
    )
    target_call = reranker.match(scores.candidates[:, :2], cells)
    reranked = reranker.rerank(scores, cells)
    assert (reranked.best == target_call.argmax(axis=1)).all()
    assert not (reranked.best == 2).any()
    with pytest.raises(ValueError, match="at least 2 candidates per cell"):
        Reranker(model, TEXTS, k=1)


def test_states_are_made_once_and_read_again(model, tmp_path, monkeypatch):
    first = TextStateCache(model, tmp_path).get(list(TEXTS[:2]), width=32)
    assert len(list(tmp_path.iterdir())) == 2
    with inference(model):
        alone = model.encode_text(*model.tokenize_texts([TEXTS[1]]))
    n_tokens = alone.states.shape[1]
    assert first.states[1, :n_tokens].numpy() == pytest.approx(alone.states[0].numpy(), abs=5e-3)
    assert first.attention_mask.sum(1).tolist()[1] == n_tokens

    def never(*_args):
        raise AssertionError("encoded again")

    monkeypatch.setattr(model, "encode_text", never)
    again = TextStateCache(model, tmp_path).get(list(TEXTS[:2]), width=32)
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.input_ids, again.input_ids)


def test_a_damaged_entry_is_made_again(model, tmp_path):
    wanted = TextStateCache(model, tmp_path).get([TEXTS[0]], width=32)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(b"cut")
    got = TextStateCache(model, tmp_path).get([TEXTS[0]], width=32)
    assert torch.equal(wanted.states, got.states) and entry.stat().st_size > 100


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(model, tmp_path):
    (tmp_path / "file").touch()
    states = TextStateCache(model, tmp_path / "file" / "below").get([TEXTS[0]], width=32)
    assert states.states.shape == (1, 32, 32)


def test_a_tuned_tower_without_a_checkpoint_is_not_kept_on_disk(model, tmp_path, monkeypatch):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    tuned = replace(model.config, text=replace(model.config.text, frozen=False))
    monkeypatch.setattr(model, "config", tuned)
    monkeypatch.setattr(model, "sha256", "")
    TextStateCache(model).get([TEXTS[0]], width=32)
    assert not list(tmp_path.iterdir())


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LANGCELL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "langcell"
    assert os.fspath(cache_folder()).startswith(os.fspath(tmp_path))
