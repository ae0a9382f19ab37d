"""One cell against many texts, beside each pair by itself, padded, as the plain loop has it."""

from typing import Any

import pytest
import torch

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.cell_matcher import CellMatcher
from langcell.nn.config import CellEncoderConfig, LangCellConfig, MatchingConfig, TextEncoderConfig
from langcell.nn.features import CellFeatures, TextFeatures

SIZES: dict[str, Any] = {"hidden_size": 16, "n_heads": 2, "intermediate_size": 24}
HEADS = {
    "cross_attention": MatchingConfig(kind="cross_attention"),
    "fusion-mean": MatchingConfig(**SIZES, n_layers=2, pooling="mean", interaction=True),
    "fusion-cls": MatchingConfig(**SIZES, n_layers=1, pooling="cls"),
}
N_CELLS, N_TEXTS = 4, 70


@pytest.fixture(params=HEADS)
def model(request) -> LangCell:
    torch.manual_seed(0)
    crosses = request.param == "cross_attention"
    config = LangCellConfig(
        cell=CellEncoderConfig(vocab_size=50, hidden_size=12, n_heads=2, n_layers=1),
        text=TextEncoderConfig(
            **SIZES, frozen=False, sha256="", vocab_size=40, n_layers=3, max_positions=30,
            max_tokens=30, pooling="cls", cross_attention=crosses,
            encoder_width=12 if crosses else 0,
        ),
        matching=HEADS[request.param],
        embedding_dim=6,
    )  # fmt: skip
    model = LangCell(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and weight.ndim:
                weight.normal_(std=0.3)  # so that pairs differ by more than rounding
    return model


@pytest.fixture
def cells(model) -> CellFeatures:
    """Cells of 1, 5, 9 and 20 tokens."""
    mask = torch.arange(20) < torch.tensor([1, 5, 9, 20])[:, None]
    ids = torch.randint(2, 50, (N_CELLS, 20), generator=torch.Generator().manual_seed(1))
    with inference(model):
        return model.encode_cell(ids * mask, mask)


@pytest.fixture
def texts(model) -> list[TextFeatures]:
    """Texts of 1 to 30 tokens, one more of each length than go through at once of some."""
    generator = torch.Generator().manual_seed(2)
    lengths = [1 + place % 30 for place in range(N_TEXTS)]
    with inference(model):
        return [
            model.encode_text(torch.randint(2, 40, (1, n), generator=generator), None)
            for n in lengths
        ]


def test_it_gives_the_numbers_of_the_plain_loop(model, cells, texts, monkeypatch):
    monkeypatch.setattr("langcell.nn.cell_matcher._TEXTS_AT_ONCE", 5)
    matcher, zero = CellMatcher(model), torch.tensor([0])
    with inference(model):
        begun = [matcher.begin(text) for text in texts]
        for row in range(N_CELLS):
            got = matcher.match(matcher.read(cells, row), begun)
            each = [
                model.match(text, cells, text_rows=zero, cell_rows=torch.tensor([row]))
                for text in texts
            ]
            torch.testing.assert_close(got, torch.cat(each), atol=1e-5, rtol=0)
            assert (got[0] - got[1]).abs().max() > 1e-3


def test_a_cell_is_projected_once_and_a_text_begun_once(model, cells, texts):
    """Whatever asks: blocks are counted as they run."""
    matcher = CellMatcher(model)
    stack = matcher._stack
    counted = {"keys": 0, "first attention": 0}

    def count(name):
        def hook(*_):
            counted[name] += 1

        return hook

    for block in stack.blocks:
        block.cross_attention.key_value.register_forward_hook(count("keys"))
    stack.blocks[0].attention.query_key_value.register_forward_hook(count("first attention"))
    with inference(model):
        begun = [matcher.begin(text) for text in texts[:7]]
        for row in (0, 2):
            cell = matcher.read(cells, row)
            matcher.match(cell, begun)
            matcher.match(cell, begun[:3])
    assert counted == {"keys": 2 * len(stack.blocks), "first attention": 7}
