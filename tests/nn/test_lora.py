"""Low-rank adapters: they start as nothing, learn alone, and end in the weights."""

import copy
from typing import Any

import pytest
import torch

from langcell.nn.bert import Attended
from langcell.nn.config import TextEncoderConfig
from langcell.nn.lora import LoRALinear, merged
from langcell.nn.text_encoder import TextEncoder
from pretrain.steps.text_lora import add_adapters

IDS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
CELLS = Attended(states=torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def tower() -> TextEncoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 12,
        "n_layers": 2,
        "n_heads": 2,
        "intermediate_size": 16,
    }
    config = TextEncoderConfig(
        frozen=False, sha256="", vocab_size=50, cross_attention=True, encoder_width=8, **sizes
    )
    return TextEncoder(config).eval()


def learn(tower: TextEncoder) -> None:
    """Take a step large enough to see."""
    torch.manual_seed(1)
    for each in tower.parameters():
        if each.requires_grad:
            torch.nn.init.normal_(each, std=0.3)


def test_adapters_are_nothing_at_first_and_learn_alone(tower: TextEncoder) -> None:
    before = tower(IDS, None, cells=CELLS)
    add_adapters(tower, rank=2, scale=2.0)
    torch.testing.assert_close(tower(IDS, None, cells=CELLS), before)
    learning = {name for name, each in tower.named_parameters() if each.requires_grad}
    assert all(".parametrizations." in name or ".cross_attention." in name for name in learning)
    # Four matrices a block, two small ones each; all six tensors of cross-attention and its norm.
    assert sum(".parametrizations." in name for name in learning) == 2 * 4 * 2
    assert sum(".cross_attention." in name for name in learning) == 2 * 8
    tower(IDS, None, cells=CELLS).sum().backward()
    assert all(each.grad is None for each in tower.parameters() if not each.requires_grad)


def test_the_adapted_weight_by_hand() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    adapter = LoRALinear(weight, rank=1, scale=0.5)
    with torch.no_grad():
        adapter.up.copy_(torch.tensor([[1.0], [2.0]]))
        adapter.down.copy_(torch.tensor([[2.0, 0.0, 4.0]]))
    wanted = torch.tensor([[0.0 + 1, 1, 2 + 2], [3 + 2, 4, 5 + 4]])
    torch.testing.assert_close(adapter(weight).detach(), wanted)


def test_merged_weights_read_texts_as_the_adapted_ones(tower: TextEncoder) -> None:
    plain = copy.deepcopy(tower)
    add_adapters(tower, rank=2, scale=2.0)
    learn(tower)
    done = merged(tower)
    assert done is not tower and not any(".parametrizations." in name for name in done.state_dict())
    assert done.state_dict().keys() == plain.state_dict().keys()
    assert any(".parametrizations." in name for name in tower.state_dict())  # it goes on learning
    for first_only in (False, True):  # which reads slices of a weight
        adapted, found, stock = (
            each(IDS, None, cells=CELLS, first_only=first_only) for each in (tower, done, plain)
        )
        torch.testing.assert_close(found, adapted, rtol=1e-5, atol=1e-6)
        assert (found - stock).abs().max() > 0.1
    assert merged(plain) is plain


def test_adapters_lie_where_the_weights_do():
    adapter = LoRALinear(torch.empty(3, 4, device="meta"), rank=2, scale=1.0)
    assert {each.device.type for each in adapter.parameters()} == {"meta"}
