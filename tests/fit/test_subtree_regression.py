"""Hierarchical regressions: against plain ones, torch and finite differences."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from langcell.nn import losses
from tests.fit.test_few_shot import make_shots
from zeroshot.fit.fit_head import fit_head
from zeroshot.fit.subtree_regression import Subtrees, fit_subtree_regression, subtree_loss

B_CELL, T_CELL, CD4, CD8 = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000625"


def keys_of(shots, keys):
    object.__setattr__(shots, "keys", keys)
    return shots


def test_labels_that_do_not_nest_are_a_plain_regression():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 30)
    flat = Subtrees(below=np.eye(3), weights=np.eye(3), own=np.arange(3))
    for n_inputs in (8, 60):  # fewer and more than there are cells
        inputs = rng.normal(size=(30, n_inputs))
        wanted = LogisticRegression(C=3, max_iter=1000, tol=1e-8).fit(inputs, labels)
        weights, intercepts = fit_subtree_regression(inputs, labels, flat, 3)
        assert weights == pytest.approx(wanted.coef_, abs=1e-3)
        assert intercepts - intercepts.mean() == pytest.approx(
            wanted.intercept_ - wanted.intercept_.mean(), abs=1e-3
        )


def test_the_loss_and_its_slope():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 4))
    subtrees = Subtrees.of((B_CELL, T_CELL, CD4, CD8))
    targets = subtrees.weights[[0, 1, 2, 3, 1]]
    value, slope = subtree_loss(logits, targets, subtrees.below)
    steps = 1e-6 * np.eye(20).reshape(20, 5, 4)
    found = [subtree_loss(logits + each, targets, subtrees.below)[0] - value for each in steps]
    assert np.reshape(found, (5, 4)) == pytest.approx(1e-6 * slope, abs=1e-10)
    # That of pretraining is written for as many terms as labels: unlike columns that are there.
    square = subtrees.below[:, subtrees.own]
    shares = targets[:, subtrees.own]
    given = (
        torch.tensor(each, dtype=torch.float32) for each in (logits, np.eye(4), shares, square)
    )
    wanted = losses.subtree_loss(*given, 1.0)
    assert subtree_loss(logits, shares, square)[0] / 5 == pytest.approx(float(wanted), abs=1e-5)


def test_cells_of_an_inner_label_teach_all_below_it():
    """By hand: a cell that is some T cell asks for the sum of its subtree alone."""
    subtrees = Subtrees.of((B_CELL, T_CELL, CD4, CD8))
    assert subtrees.at_or_below(np.array([1])).tolist() == [1, 2, 3]
    assert subtrees.at_or_below(np.array([0, 2])).tolist() == [0, 2]
    logits = np.array([[0.0, 1.0, 2.0, 3.0]])
    target = np.zeros((1, subtrees.below.shape[1]))
    target[0, subtrees.own[1]] = 1
    mass = np.exp([1, 2, 3]).sum() / np.exp([0, 1, 2, 3]).sum()
    assert subtree_loss(logits, target, subtrees.below)[0] == pytest.approx(-np.log(mass))


def test_a_hierarchical_head_leaves_what_is_below_a_label_to_the_texts():
    shots = keys_of(make_shots([0, 1] * 8, n_labels=4), (B_CELL, T_CELL, CD4, "CL:0000232"))
    head = fit_head(shots, "hierarchical", model="m", model_sha256="s")
    assert head.kind == "hierarchical" and head.n_shots.tolist() == [8, 8, 0, 0]
    # CD4-positive T cells gain what T cells gain, the erythrocyte, which no cell teaches, nothing.
    assert head.feature_weights[2] == pytest.approx(head.feature_weights[1], abs=1e-6)
    assert not head.feature_weights[3].any()
    found = head.log_probabilities(shots.texts, shots.features, shots.tokens)
    finer = shots.texts[:, 2] > shots.texts[:, 1]
    is_t = found[:, 1:3].max(axis=1) > found[:, 0]
    assert ((found[:, 2] > found[:, 1]) == finer).all() and is_t[1::2].mean() > 0.8
    with pytest.raises(ValueError, match="a hierarchical head needs cells of"):
        one = keys_of(make_shots([1, 1]), (B_CELL, T_CELL, CD4))
        fit_head(one, "hierarchical", model="m", model_sha256="s")
