import pytest
import torch

from langcell.checkpoints.text_towers import (
    find_tower,
    load_tokenizer,
    load_tower,
    text_encoder_config,
)
from langcell.nn.bert import Attended
from langcell.nn.config import TextEncoderConfig
from langcell.nn.text_encoder import TextEncoder

TEXTS = ["cell type: B cell. a lymphocyte.", "neuron", "a much longer text " * 30]


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return load_tower(TextEncoderConfig()).eval()


@torch.inference_mode()
def test_tower_equals_transformers(minilm):
    from transformers import BertModel

    reference = BertModel.from_pretrained(find_tower("all-MiniLM-L6-v2")).eval()
    encoded = load_tokenizer("all-MiniLM-L6-v2")(TEXTS, padding=True, return_tensors="pt")
    expected = reference(**encoded).last_hidden_state
    got = minilm(encoded["input_ids"], encoded["attention_mask"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    first = minilm(encoded["input_ids"], encoded["attention_mask"], first_only=True)
    torch.testing.assert_close(first[:, 0], expected[:, 0], atol=1e-5, rtol=0)


def test_mean_pooling_skips_padding(minilm):
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert minilm.pool(states, mask).tolist() == [[2.0, 3.0]]
    assert minilm.pool(states[:, :2], None).tolist() == [[2.0, 3.0]]


def test_packaged_tower_is_checked_by_its_sha256():
    with pytest.raises(ValueError, match="has sha256 53aa51"):
        load_tower(TextEncoderConfig(sha256="0" * 64))


def test_packaged_config_equals_the_folder_read_as_any_bert():
    folder = str(find_tower("all-MiniLM-L6-v2"))
    read = text_encoder_config(folder, pooling="mean", max_tokens=256)
    packaged = text_encoder_config("all-MiniLM-L6-v2")
    assert read == TextEncoderConfig(tower=folder)
    assert packaged == TextEncoderConfig()


def test_unknown_tower_is_one_line_that_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"'nobody/no-such-bert'.*all-MiniLM-L6-v2") as caught:
        find_tower("nobody/no-such-bert")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_tower(str(tmp_path / "missing"))


def test_a_tower_that_is_no_bert_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ValueError, match="must describe a BERT"):
        text_encoder_config(str(tmp_path))


def test_cross_attention_starts_random_on_a_plain_bert():
    config = text_encoder_config("all-MiniLM-L6-v2", frozen=False, encoder_width=16)
    encoder = load_tower(config).eval()
    ids = torch.tensor([[101, 3000, 102]])
    cells = Attended(states=torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        alone, together = encoder(ids, None), encoder(ids, None, cells=cells)
    assert together.shape == alone.shape == (1, 3, 384)
    assert not torch.allclose(alone, together, atol=1e-3)


def test_text_encoder_without_cross_attention_refuses_cells(minilm):
    with pytest.raises(ValueError, match="no cross-attention"):
        minilm(torch.tensor([[101]]), None, cells=Attended(states=torch.zeros(1, 1, 4)))
