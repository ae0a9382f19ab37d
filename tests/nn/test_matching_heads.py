import pytest
import torch

from langcell.nn.bert import Attended
from langcell.nn.config import MatchingConfig
from langcell.nn.matching_heads import FusionMatching

N_TEXT, N_CELL = 5, 7


@pytest.fixture(params=["mean", "cls"])
def head(request) -> FusionMatching:
    torch.manual_seed(0)
    config = MatchingConfig(
        hidden_size=8, n_heads=2, n_layers=2, intermediate_size=16, pooling=request.param
    )
    head = FusionMatching(config, text_width=12, cell_width=6).eval()
    for weight in head.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return head


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, N_TEXT, 12, generator=generator),
        torch.randn(2, N_CELL, 6, generator=generator),
    )


@torch.inference_mode()
def test_padding_of_text_and_cell_is_not_read(head, states):
    text, cell = states
    text_mask, cell_mask = torch.ones(2, N_TEXT), torch.ones(2, N_CELL)
    text_mask[0, 3:] = 0
    cell_mask[0, 4:] = 0
    padded = head(text, text_mask, Attended(states=cell, attention_mask=cell_mask))
    alone = head(text[:1, :3], None, Attended(states=cell[:1, :4]))
    assert padded.shape == (2, 2)
    torch.testing.assert_close(padded[:1], alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_both_sides_are_read(head, states):
    text, cell = states
    before = head(text, None, Attended(states=cell))
    swapped_cells = head(text, None, Attended(states=cell.flip(0)))
    swapped_texts = head(text.flip(0), None, Attended(states=cell))
    assert (before - swapped_cells).abs().max() > 1e-3
    assert (before - swapped_texts).abs().max() > 1e-3
    # Swapping both swaps the pairs.
    torch.testing.assert_close(swapped_cells.flip(0), swapped_texts, atol=1e-5, rtol=0)


def test_it_learns_which_pairs_match(head, states):
    text, cell = states
    rows = {"text": torch.tensor([0, 0, 1, 1]), "cell": torch.tensor([0, 1, 0, 1])}
    labels = (rows["text"] == rows["cell"]).long()
    for _ in range(100):
        logits = head(text[rows["text"]], None, Attended(states=cell, rows=rows["cell"]))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        weights = list(head.parameters())
        with torch.no_grad():
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight -= 0.05 * slope
    assert logits.argmax(1).tolist() == labels.tolist()


def test_the_product_of_the_features_adds_to_the_score(states):
    text, cell = states
    config = MatchingConfig(
        hidden_size=8, n_heads=2, n_layers=1, intermediate_size=16, interaction=True
    )
    head = FusionMatching(config, text_width=12, cell_width=6, feature_width=4).eval()
    product = torch.tensor([[0.5, 0.0, -0.5, 0.0], [0.0, 0.25, 0.0, 0.0]])
    cells = Attended(states=cell)
    added = head(text, None, cells, product) - head(text, None, cells, torch.zeros_like(product))
    torch.testing.assert_close(added, 4 * product @ head.interaction.weight.T)
    with pytest.raises(ValueError, match="product"):
        head(text, None, cells)
