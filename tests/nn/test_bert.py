"""Blocks against transformers' BERT and against attention written out by hand."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel

from langcell.checkpoints.bert_weights import fuse_bert
from langcell.nn.bert import Attended, BertStack, CrossAttention, key_mask, masked_mean
from langcell.nn.cell_encoder import CellEncoder
from langcell.nn.config import CellEncoderConfig, StackConfig

SMALL = StackConfig(hidden_size=8, n_heads=2, n_layers=2, intermediate_size=12)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_encoder_equals_transformers_in_value_and_gradient(activation):
    torch.manual_seed(0)
    reference = BertModel(
        BertConfig(
            vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=24, max_position_embeddings=12, hidden_act=activation,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    config = CellEncoderConfig(
        vocab_size=30, hidden_size=16, n_layers=2, n_heads=4, intermediate_size=24,
        max_positions=12, hidden_act=activation, dropout=0.0, attention_dropout=0.0,
        masked_gene_head=False,
    )  # fmt: skip
    encoder = CellEncoder(config)
    encoder.load_state_dict(
        fuse_bert(reference.state_dict(), config, "reference", has_token_types=True)
    )
    ids = torch.randint(0, 30, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    weights = torch.randn(3, 9, 16) * mask[:, :, None]  # padded positions carry no meaning
    expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    got = encoder(ids, mask)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    theirs = reference.encoder.layer[0].attention.self
    ours = encoder.stack.blocks[0].attention.query_key_value.weight.grad
    joined = torch.cat([part.weight.grad for part in (theirs.query, theirs.key, theirs.value)])
    torch.testing.assert_close(ours, joined, atol=1e-5, rtol=1e-4)


def small_encoder(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "n_layers": 2, "n_heads": 2, "intermediate_size": 64}
    sizes |= {"vocab_size": 30, "max_positions": 12, "masked_gene_head": False}
    dropouts = {"dropout": 0.0, "attention_dropout": 0.0}
    return CellEncoder(CellEncoderConfig(**sizes, **dropouts | changes))


IDS = torch.randint(0, 30, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(9) < torch.tensor([[9], [4], [1]])


def encoded(encoder, device, *, pack):
    """States of real tokens and gradients of a step over padded or packed rows, as float32."""
    encoder.stack.pack = pack
    encoder.zero_grad()
    mask = MASK.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        states = encoder(IDS.to(device), mask) * mask[:, :, None]
    generator = torch.Generator().manual_seed(2)
    (states * torch.randn(states.shape, generator=generator).to(device)).sum().backward()
    return [states, *(each.grad.clone() for each in encoder.parameters())]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("compiled", [False, True])
def test_packed_rows_give_the_numbers_of_padded_ones(device, compiled):
    """The same blocks with padding, in value and gradient; on CUDA in half precision."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    if device == "cpu" and compiled:
        pytest.skip("compiles for minutes")
    encoder = small_encoder().to(device).train()
    padded = encoded(encoder, device, pack=False)
    if compiled:
        encoder.stack.compile_blocks()
    packed = encoded(encoder, device, pack=True)
    tolerance = 1e-5 if device == "cpu" else 2e-2  # of bfloat16, which has 8 bits
    for one, other in zip(packed, padded, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_packing_leaves_out_padding_and_what_it_cannot_do():
    stack = small_encoder().stack.train()
    assert stack.packing(MASK) is None  # not asked for
    stack.pack = True
    assert stack.packing(None) is None  # nothing is padded
    assert len(stack.packing(MASK).rows) == int(MASK.sum())
    drops = small_encoder(attention_dropout=0.1).stack.train()
    drops.pack = True
    assert drops.packing(MASK) is None
    assert drops.eval().packing(MASK) is not None


def test_half_precision_states_stay_so_under_autocast():
    encoder = small_encoder().train()
    encoder.stack.pack = True
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(IDS, MASK).dtype == torch.bfloat16
    assert encoder(IDS, MASK).dtype == torch.float32


def test_recomputing_activations_changes_no_gradient():
    torch.manual_seed(0)
    encoder = small_encoder(dropout=0.3)
    found = []
    for recompute in (False, True):
        encoder.stack.recompute = recompute
        torch.manual_seed(1)
        found.append(encoded(encoder, "cpu", pack=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_cross_attention_equals_the_formula_by_hand():
    torch.manual_seed(0)
    block = CrossAttention(SMALL, encoder_width=5).eval()
    states, cells = torch.randn(1, 3, 8), torch.randn(1, 4, 5)
    mask = torch.tensor([[1, 1, 0, 1]])
    key, value = block.key_value(cells)[0].chunk(2, dim=-1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = block.query(states)[0][:, part] @ key[:, part].T / math.sqrt(4)
        scores[:, 2] = -math.inf
        heads.append(scores.softmax(-1) @ value[:, part])
    expected = block.norm(states + block.output(torch.cat(heads, dim=-1)))
    got = block(states, Attended(states=cells, attention_mask=mask))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_rows_read_the_source_they_name():
    torch.manual_seed(0)
    stack = BertStack(SMALL, encoder_width=5).eval()
    states, cells = torch.randn(3, 2, 8), torch.randn(2, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    rows = torch.tensor([1, 0, 1])
    by_rows = Attended(states=cells, attention_mask=mask, rows=rows)
    repeated = Attended(states=cells[rows], attention_mask=mask[rows])
    got, expected = stack(states, attended=by_rows), stack(states, attended=repeated)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("with_cells", [False, True])
def test_first_only_is_exact(with_cells):
    torch.manual_seed(0)
    stack = BertStack(SMALL, encoder_width=5).eval()
    states, mask = torch.randn(2, 6, 8), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    attended = Attended(states=torch.randn(2, 3, 5)) if with_cells else None
    whole = stack(states, mask, attended=attended)
    first = stack(states, mask, attended=attended, first_only=True)
    assert first.shape == (2, 1, 8)
    torch.testing.assert_close(first, whole[:, :1], atol=1e-6, rtol=0)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    stack = BertStack(StackConfig(hidden_size=8, n_heads=2, n_layers=1, intermediate_size=8))
    states = torch.randn(1, 4, 8)
    stack.train()
    assert not torch.equal(stack(states), stack(states))
    stack.eval()
    assert torch.equal(stack(states), stack(states))


def test_masks_and_means():
    assert key_mask(None) is None
    assert key_mask(torch.tensor([[1, 0]])).tolist() == [[[[True, False]]]]
    states = torch.tensor([[[1.0], [5.0]], [[2.0], [4.0]]])
    assert masked_mean(states, torch.tensor([[1, 0], [1, 1]])).tolist() == [[1.0], [3.0]]
    assert masked_mean(states, None).tolist() == [[3.0], [3.0]]


def test_old_tensor_names_are_read():
    torch.manual_seed(0)
    config = CellEncoderConfig(
        vocab_size=5, hidden_size=4, n_heads=1, n_layers=1, intermediate_size=4, max_positions=3
    )
    sizes = BertConfig(
        vocab_size=5, hidden_size=4, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=4, max_position_embeddings=3,
    )  # fmt: skip
    new = BertModel(sizes, add_pooling_layer=True).state_dict()
    old = {
        "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in new.items()
    }
    expected = fuse_bert(new, config, "new", has_token_types=True)
    got = fuse_bert(old, config, "old", has_token_types=True)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in got)
