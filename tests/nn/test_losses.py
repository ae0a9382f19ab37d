"""The losses, value and gradient, against loops over pairs written by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from langcell.nn.losses import (
    IGNORED,
    cell_cell_loss,
    distillation_loss,
    masked_gene_loss,
    matching_loss,
    multi_positive_contrastive_loss,
    partial_positive_loss,
    sample_hard_negatives,
    subtree_loss,
)

# Both sides are float32, so only the order of additions differs.
TOLERANCE: Any = {"rtol": 1e-5, "atol": 1e-6}


def unit(n: int, d: int, seed: int) -> Tensor:
    features = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=1)


def leaves(*tensors: Tensor) -> Any:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def assert_same(fast: Tensor, slow: Any, inputs: list[Tensor]) -> None:
    """Compare value and gradients of two scalars that depend on the same leaves."""
    torch.testing.assert_close(fast, slow, **TOLERANCE)
    fast_gradients = torch.autograd.grad(fast, inputs, allow_unused=True)
    slow_gradients = torch.autograd.grad(slow, inputs, allow_unused=True)
    for one, other in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


def slow_direction(logits: Tensor, positives: Tensor, ignore: Tensor) -> Tensor:
    rows = []
    for i in range(len(logits)):
        pairs: list[Tensor] = []
        for p in range(logits.shape[1]):
            if not positives[i, p]:
                continue
            denominator = logits[i, p].exp()
            for j in range(logits.shape[1]):
                if not positives[i, j] and not ignore[i, j]:
                    denominator = denominator + logits[i, j].exp()
            pairs.append(-(logits[i, p].exp() / denominator).log())
        if pairs:
            rows.append(torch.stack(pairs).mean())
    return torch.stack(rows).mean()


def slow_multi_positive(
    cells: Tensor,
    texts: Tensor,
    positives: Tensor,
    ignore: Tensor,
    scale: Tensor | float,
) -> Tensor:
    logits = scale * cells @ texts.T
    from_texts = slow_direction(logits.T, positives.T, ignore.T)
    return (slow_direction(logits, positives, ignore) + from_texts) / 2


# Six cells, four texts; cell 5 is of a type above text 1 and below text 2.
POSITIVES = torch.tensor(
    [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
).bool()
IGNORE = torch.tensor(
    [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]
).bool()


def test_multi_positive_loss_equals_the_loop_over_pairs() -> None:
    inputs = leaves(unit(6, 8, 0), unit(4, 8, 1), torch.tensor(7.0))
    fast = multi_positive_contrastive_loss(inputs[0], inputs[1], POSITIVES, IGNORE, inputs[2])
    slow = slow_multi_positive(inputs[0], inputs[1], POSITIVES, IGNORE, inputs[2])
    assert_same(fast, slow, inputs)


# Three labels; label 0 is above 1, label 2 stands apart. Cells of types 1, 2 and 0.
TARGETS = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
DESCENDANTS = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 0]]).bool()


def test_partial_positives_equal_the_pairs_by_hand() -> None:
    inputs = leaves(unit(3, 8, 0), unit(3, 8, 1), torch.tensor(7.0))
    fast = partial_positive_loss(inputs[0], inputs[1], TARGETS, DESCENDANTS, inputs[2])
    p = (inputs[2] * inputs[0] @ inputs[1].T).exp()
    first = p[0] / p[0].sum()
    slow = -(0.25 * first[0].log() + 0.75 * first[1].log())
    slow = slow - (p[1, 2] / p[1].sum()).log()
    slow = slow - (p[2, 0] / (p[2, 0] + p[2, 2])).log()  # the descendant takes no part
    assert_same(fast, slow / 3, inputs)


def test_an_ignored_label_moves_nothing() -> None:
    cells, labels = leaves(unit(1, 8, 0), unit(3, 8, 1))
    partial_positive_loss(cells, labels, TARGETS[2:], DESCENDANTS[2:], 5.0).backward()
    assert labels.grad[1].abs().max() == 0
    assert labels.grad[0].abs().max() > 0


def test_subtrees_equal_the_sums_by_hand() -> None:
    below = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])  # label 1 lies below label 0
    inputs = leaves(unit(3, 8, 0), unit(3, 8, 1), torch.tensor(7.0))
    fast = subtree_loss(inputs[0], inputs[1], TARGETS, below, inputs[2])
    p = (inputs[2] * inputs[0] @ inputs[1].T).softmax(dim=1)
    slow = -(0.25 * (p[0, 0] + p[0, 1]).log() + 0.75 * p[0, 1].log())
    slow = slow - p[1, 2].log() - (p[2, 0] + p[2, 1]).log()
    assert_same(fast, slow / 3, inputs)


def test_distillation_is_least_where_the_student_agrees() -> None:
    cells, labels = unit(3, 8, 0), unit(4, 8, 1)
    own = (5 * cells @ labels.T).softmax(dim=1)
    student = cells.clone().requires_grad_()
    loss = distillation_loss(student, labels, own, 5.0)
    loss.backward()
    assert loss.item() == pytest.approx(-(own * own.log()).sum(dim=1).mean().item(), abs=1e-5)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6
    assert distillation_loss(cells, labels, own.roll(1, dims=0), 5.0) > loss


def test_ignored_pairs_do_not_move_anything() -> None:
    cells, texts = leaves(unit(6, 8, 0), unit(4, 8, 1))
    everything_else = ~POSITIVES
    loss = multi_positive_contrastive_loss(cells, texts, POSITIVES, everything_else, 20.0)
    loss.backward()
    assert loss.item() == 0
    assert cells.grad.abs().max() == 0


def test_without_repeats_the_loss_is_clip() -> None:
    cells, texts = unit(5, 8, 0), unit(5, 8, 1)
    logits = 10 * cells @ texts.T
    target = torch.arange(5)
    clip = (
        torch.nn.functional.cross_entropy(logits, target)
        + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
    own = torch.eye(5).bool()
    ours = multi_positive_contrastive_loss(cells, texts, own, torch.zeros_like(own), 10.0)
    torch.testing.assert_close(ours, clip, **TOLERANCE)


@pytest.mark.parametrize("n_cells", [1, 4])
def test_a_batch_of_one_type_has_no_loss_and_finite_gradients(n_cells: int) -> None:
    cells, texts = leaves(unit(n_cells, 8, 0), unit(1, 8, 1))
    positives = torch.ones(n_cells, 1).bool()
    loss = multi_positive_contrastive_loss(
        cells, texts, positives, torch.zeros_like(positives), 100.0
    )
    loss = loss + cell_cell_loss(cells, cells * 1.0, torch.ones(n_cells, n_cells).bool(), 100.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(cells.grad).all()
    assert torch.isfinite(texts.grad).all()
    assert cells.grad.abs().max() == 0


def test_texts_without_a_cell_count_as_negatives_only() -> None:
    inputs = leaves(unit(2, 8, 0), unit(3, 8, 1))
    positives = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    nothing = torch.zeros_like(positives)
    fast = multi_positive_contrastive_loss(inputs[0], inputs[1], positives, nothing, 5.0)
    assert_same(fast, slow_multi_positive(inputs[0], inputs[1], positives, nothing, 5.0), inputs)


def test_cell_cell_loss_equals_the_loop_over_pairs() -> None:
    comparable = torch.eye(5).bool()
    comparable[0, 3] = comparable[3, 0] = comparable[1, 2] = comparable[2, 1] = True
    inputs = leaves(unit(5, 8, 0), unit(5, 8, 1), torch.tensor(9.0))
    a, b, scale = inputs
    total = torch.zeros(())
    for i in range(5):
        own = (scale * a[i] @ b[i]).exp()
        others = [j for j in range(5) if not comparable[i, j]]
        forward = own + sum((scale * a[i] @ b[j]).exp() for j in others)
        backward = own + sum((scale * a[j] @ b[i]).exp() for j in others)
        total = total - (own / forward).log() - (own / backward).log()
    assert_same(cell_cell_loss(a, b, comparable, scale), total / 10, inputs)


def test_masked_gene_loss_equals_the_loop_over_positions() -> None:
    logits = leaves(torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0)))[0]
    labels = torch.tensor([[IGNORED, 2, IGNORED, 5], [1, IGNORED, IGNORED, IGNORED]])
    measured = torch.tensor([[1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1, 1]]).bool()
    terms = []
    for cell, position, gene in [(0, 1, 2), (0, 3, 5), (1, 0, 1)]:
        among = [g for g in range(7) if measured[cell, g]]
        denominator = sum(logits[cell, position, g].exp() for g in among)
        terms.append(-(logits[cell, position, gene].exp() / denominator).log())
    fast = masked_gene_loss(logits, labels, measured[:, None, :])
    assert_same(fast, sum(terms) / 3, [logits])


def test_masked_gene_loss_of_nothing_masked_is_zero() -> None:
    logits = leaves(torch.randn(2, 3, 5))[0]
    loss = masked_gene_loss(logits, torch.full((2, 3), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_matching_loss_equals_the_logarithms_of_the_chosen_class() -> None:
    logits = leaves(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))[0]
    labels = torch.tensor([1, 0, 0, 1])
    slow = -sum(logits[i].softmax(0)[labels[i]].log() for i in range(4)) / 4
    assert_same(matching_loss(logits, labels), slow, [logits])
    assert matching_loss(logits[:0], labels[:0]).item() == 0


def test_hard_negatives_follow_the_softmax_of_the_similarity_and_the_allowed_pairs() -> None:
    similarity = torch.tensor([0.0, 1.0, 9.0, 2.0]).repeat(20000, 1)
    allowed = torch.tensor([True, True, False, True]).repeat(20000, 1)
    drawn = sample_hard_negatives(similarity, allowed, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    whole = sum(math.exp(x) for x in (0, 1, 2))
    expected = torch.tensor([1 / whole, math.exp(1) / whole, 0, math.exp(2) / whole])
    # Four standard errors of a share near one half.
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * 0.5 / math.sqrt(20000))
    assert (shares[2] == 0).item()


def test_a_row_without_an_allowed_column_draws_nothing() -> None:
    drawn = sample_hard_negatives(
        torch.zeros(2, 3), torch.tensor([[0, 0, 0], [0, 1, 0]]).bool(), torch.Generator()
    )
    assert drawn.tolist() == [-1, 1]
