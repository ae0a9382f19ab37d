"""Effects of genes: against encoding the cell again without each gene."""

import numpy as np
import pytest
import torch

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from zeroshot.evidence.attribution import gene_effects, token_features


@pytest.fixture(scope="module")
def bag(tiny_bag):
    return LangCell.from_pretrained(str(tiny_bag))


@pytest.fixture(scope="module")
def transformer(tiny_model):
    return LangCell.from_pretrained(str(tiny_model))


def _cells():
    """Cells that read 12 genes, one gene, all 32 of 32, 32 of 33 and none."""
    rng = np.random.default_rng(1)
    return [rng.permutation(400)[:n].astype(np.uint16) + 2 for n in (12, 1, 32, 33, 0)]


def _directions(n=2):
    return np.random.default_rng(2).normal(size=(n, 16)).astype(np.float32)


def _slow(model, tokens, directions):
    """Encode the cell without each of the genes that are read, one at a time."""
    (whole,) = token_features(model, [tokens])
    n_read = min(len(tokens), model.config.max_genes)
    left = [token_features(model, [np.delete(tokens, place)])[0] for place in range(n_read)]
    return np.array([(whole - each) @ directions.T for each in left]).reshape(
        n_read, len(directions)
    )


def test_effects_in_a_bag_are_those_of_leaving_each_gene_out(bag):
    directions = _directions()
    found = gene_effects(bag, _cells(), [directions] * 5)
    assert [len(each) for each in found] == [12, 1, 32, 32, 0]
    for tokens, effects in zip(_cells(), found, strict=True):
        wanted = _slow(bag, tokens, directions)
        # float32 sums of 32 terms of order one, in another order
        np.testing.assert_allclose(effects, wanted, atol=2e-5)
    assert np.abs(found[0]).max() > 1e-2, "the effects are too small to tell anything"


def test_the_next_gene_moves_up(bag):
    tokens = _cells()[3]
    (with_next,) = gene_effects(bag, [tokens], [_directions()])
    (without,) = gene_effects(bag, [tokens[:32]], [_directions()])
    assert np.abs(with_next - without).max() > 1e-3


def test_effects_in_a_transformer_are_the_slope_towards_the_mean(transformer):
    tokens, directions = _cells()[0], _directions()
    (effects,) = gene_effects(transformer, [tokens], [directions])
    weights = 1 / np.log2(np.arange(12) + 2)
    table = transformer.cell_encoder.gene_embeddings
    ids = torch.from_numpy(tokens.astype(np.int64))
    mean = torch.from_numpy((weights / weights.sum()).astype(np.float32)) @ table[ids].detach()
    step = 1e-2
    for place in (0, 5, 11):
        kept = table[ids[place]].detach().clone()
        similarities = []
        with inference(transformer):
            for sign in (1, -1):
                table[ids[place]] = kept + sign * step * (kept - mean)
                similarities.append(token_features(transformer, [tokens])[0] @ directions.T)
            table[ids[place]] = kept
        slope = (similarities[0] - similarities[1]) / (2 * step)
        # central differences in float32: 1e-7 / 1e-2
        np.testing.assert_allclose(effects[place], slope, atol=2e-3)
    assert np.abs(effects).max() > 0.02


def test_a_difference_of_labels_has_the_difference_of_their_effects(bag, transformer):
    first, second = _directions()
    directions = np.stack([first, second, first - second])
    for model in (bag, transformer):
        (effects,) = gene_effects(model, _cells()[:1], [directions])
        np.testing.assert_allclose(effects[:, 2], effects[:, 0] - effects[:, 1], atol=1e-4)


def test_an_empty_cell_has_no_effects(transformer):
    (effects,) = gene_effects(transformer, _cells()[4:], [_directions()])
    assert effects.shape == (0, 2)


def test_the_model_is_left_as_it_was(transformer):
    before = transformer.cell_encoder.gene_embeddings.detach().clone()
    transformer.train()
    gene_effects(transformer, _cells()[:1], [_directions()])
    assert transformer.training and transformer.cell_encoder.gene_embeddings.grad is None
    transformer.eval()
    assert torch.equal(before, transformer.cell_encoder.gene_embeddings)
