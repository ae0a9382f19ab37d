import math
from typing import Any

import pytest
import torch

from langcell.model.langcell import LangCell, inference
from langcell.nn.config import (
    CellEncoderConfig,
    LangCellConfig,
    MatchingConfig,
    MatchingKind,
    TextEncoderConfig,
)

SMALL_TEXT: dict[str, Any] = {
    "tower": "tiny", "sha256": "", "frozen": False, "vocab_size": 30, "hidden_size": 12, "n_layers": 2, "n_heads": 2,
    "intermediate_size": 16, "max_positions": 10, "max_tokens": 10,
}  # fmt: skip


def small_config(kind: MatchingKind = "fusion", **overrides: Any) -> LangCellConfig:
    text = dict(SMALL_TEXT)
    if kind == "cross_attention":
        text |= {"cross_attention": True, "encoder_width": 8}
    return LangCellConfig(
        cell=CellEncoderConfig(
            vocab_size=20, hidden_size=8, n_layers=2, n_heads=2, intermediate_size=16,
            max_positions=9,
        ),
        text=TextEncoderConfig(**text),
        matching=MatchingConfig(
            kind=kind, hidden_size=8, n_layers=1, n_heads=2, intermediate_size=16
        ),
        embedding_dim=6,
        max_genes=8,
        **overrides,
    )  # fmt: skip


def batch(n: int, width: int, vocab: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocab, (n, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, width // 2 :] = 0
    return ids, mask


@pytest.fixture(params=["fusion", "cross_attention"])
def model(request) -> LangCell:
    torch.manual_seed(0)
    return LangCell(small_config(request.param)).eval()


def test_features_have_unit_norm_and_do_not_see_padding(model):
    ids, mask = batch(3, 6, 20)
    with torch.inference_mode():
        padded = model.encode_cell(ids, mask)
        alone = model.encode_cell(ids[:1, :3], None)
    assert padded.states.shape == (3, 6, 8)
    torch.testing.assert_close(padded.features.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(padded.features[:1], alone.features, atol=1e-6, rtol=0)


def test_cls_only_gives_the_same_features(model):
    ids, mask = batch(3, 6, 20)
    with torch.inference_mode():
        whole, first = model.encode_cell(ids, mask), model.encode_cell(ids, mask, cls_only=True)
    assert first.states.shape == (3, 1, 8)
    torch.testing.assert_close(whole.features, first.features, atol=1e-6, rtol=0)


def test_matching_by_rows_equals_matching_pair_by_pair(model):
    with torch.inference_mode():
        cell = model.encode_cell(*batch(3, 6, 20))
        text = model.encode_text(*batch(2, 5, 30, seed=1))
        text_rows, cell_rows = torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 1, 1])
        together = model.match(text, cell, text_rows=text_rows, cell_rows=cell_rows)
        for row, (i, j) in enumerate(zip(text_rows.tolist(), cell_rows.tolist(), strict=True)):
            one_text = model.encode_text(text.input_ids[i, None], text.attention_mask[i, None])
            one_cell = model.encode_cell(*(part[j, None] for part in batch(3, 6, 20)))
            expected = model.match(one_text, one_cell)
            torch.testing.assert_close(together[row, None], expected, atol=1e-6, rtol=0)
    assert together.shape == (4, 2)


def test_every_weight_gets_a_gradient(model):
    cells, texts = batch(3, 6, 20), batch(3, 5, 30, seed=1)
    output = model.train()(*cells, *texts)
    loss = (output.cells.features @ output.texts.features.T * output.logit_scale).sum()
    loss = loss + model.match(output.texts, output.cells).square().sum()
    loss = loss + model.masked_gene_logits(output.cells.states).square().mean()
    loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []


def test_masked_gene_logits_read_the_gene_embeddings(model):
    states = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    logits = model.masked_gene_logits(states)
    assert logits.shape == (2, 3, 20)
    with torch.no_grad():
        model.cell_encoder.embeddings.token.weight[7] = 0
    changed = model.masked_gene_logits(states)
    assert torch.all(changed[..., 7] == 0)
    assert torch.equal(changed[..., :7], logits[..., :7])


def test_scale_starts_at_the_inverse_temperature_and_is_clipped(model):
    assert model.scale.item() == pytest.approx(20)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1e4))
    assert model.scale.item() == pytest.approx(100)


def test_a_frozen_tower_is_no_part_of_the_module():
    config = LangCellConfig(
        cell=CellEncoderConfig(vocab_size=20, hidden_size=8, n_heads=2, n_layers=1),
        matching=MatchingConfig(hidden_size=8, n_layers=1, n_heads=2),
    )
    model = LangCell(config)
    before = set(model.state_dict())
    embedded = model.encode_texts(["cell type: b cell. ", "neuron", "neuron"])
    assert embedded.shape == (3, 256) and embedded.dtype == "float32"
    assert (embedded[1] == embedded[2]).all()
    assert set(model.state_dict()) == before
    model.train()
    assert not model.text_tower().training
    assert not any(weight.requires_grad for weight in model.text_tower().parameters())
    assert model.pool_texts([]).shape == (0, 384)


def test_pooled_texts_are_the_tower_on_each_text_alone():
    config = LangCellConfig(cell=CellEncoderConfig(vocab_size=20, hidden_size=8, n_heads=2))
    model = LangCell(config)
    texts = ["a neuron that is long in words and syllables", "b cell", "t cell of the thymus"]
    pooled = model.pool_texts(texts, batch_size=2)
    with inference(model):
        for row, text in zip(pooled, texts, strict=True):
            alone = model.encode_text(*model.tokenize_texts([text])).pooled
            torch.testing.assert_close(torch.from_numpy(row), alone[0], atol=1e-5, rtol=0)


def test_inference_puts_the_training_mode_back(model):
    with inference(model.train()):
        assert not model.training
    assert model.training


def test_too_many_positions_are_refused(model):
    with pytest.raises(ValueError, match="at most 9 positions, got 10"):
        model.encode_cell(torch.ones(1, 10, dtype=torch.long), None)


def test_vocabulary_must_fit():
    class Vocabulary:
        n_genes = 18

    with pytest.raises(ValueError, match="is for 17 genes, but the vocabulary has 18"):
        LangCell(small_config(), Vocabulary())


def test_model_without_masked_gene_head_says_so():
    config = small_config()
    cell = CellEncoderConfig(
        vocab_size=20, hidden_size=8, n_heads=2, n_layers=1, masked_gene_head=False
    )
    model = LangCell(LangCellConfig(cell=cell, text=config.text, matching=config.matching))
    with pytest.raises(ValueError, match="no masked-gene head"):
        model.masked_gene_logits(torch.zeros(1, 1, 8))


def test_texts_are_cut_at_max_tokens_and_padded_together():
    model = LangCell(LangCellConfig(cell=CellEncoderConfig(vocab_size=20)))
    ids, mask = model.tokenize_texts(["word " * 400, "cell"])
    assert ids.shape == mask.shape == (2, 256)
    assert mask.sum(1).tolist() == [256, 3]
