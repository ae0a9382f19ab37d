"""Heads that tune the model: what learns, that it is judged fairly, written and used."""

import signal

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from langcell.checkpoints.weight_changes import changed_weights
from langcell.model.frozen_bag import FrozenBag
from langcell.model.langcell import LangCell
from tests.fit.test_few_shot import labelled  # noqa: F401
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.fit.batches import sample_epoch
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.head_card import head_card
from zeroshot.fit.options import FewShotOptions
from zeroshot.heads.head_file import read_head, write_head


@pytest.fixture(scope="module")
def bag(tiny_bag):
    return LangCell.from_pretrained(tiny_bag)


@pytest.fixture(scope="module")
def transformer(tiny_model):
    return LangCell.from_pretrained(tiny_model)


def fit(adata, model, kind, **options):
    return fit_few_shot(adata, "mine", model=model, options=FewShotOptions(kind=kind, **options))


@pytest.mark.parametrize(("kind", "name"), [("lora", "transformer"), ("full", "bag")])
def test_a_tuned_head_learns_and_reads_as_it_was_judged(labelled, request, name, kind, tmp_path):  # noqa: F811
    model = request.getfixturevalue(name)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    fitted = fit(labelled, model, kind, group_key="donor")
    assert fitted.accuracy > fitted.zero_shot_accuracy + 0.1
    assert fitted.held_out == "75 cells, cross-validated by donor"
    after = model.state_dict()
    assert all(torch.equal(before[each], after[each]) for each in before), "the model stays"
    write_head(fitted.head, tmp_path / "head", card=head_card(fitted, command="langcell x"))
    head = read_head(tmp_path / "head")
    assert head.identifier == fitted.head.identifier
    first = annotate(labelled.copy(), model=model, options=AnnotateOptions(head=fitted.head))
    again = annotate(labelled.copy(), model=model, options=AnnotateOptions(head=head))
    assert first.table().equals(again.table())
    assert np.isnan(first.ood).all() and first.details["model_sha256"] == model.sha256
    has_label = np.r_[0:60, 75:90]
    wanted = labelled.obs["mine"].astype(str).replace({"T cells": "T cell"}).to_numpy()
    assert (first.names[has_label] == wanted[has_label]).mean() > 0.8


def test_the_same_seed_gives_the_same_head_and_leaves_others_randomness(labelled, bag):  # noqa: F811
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    heads = [fit(labelled, bag, "lora", shots=4, seed=seed).head for seed in (0, 0, 1)]
    assert torch.rand(1) == wanted
    assert heads[0].identifier == heads[1].identifier != heads[2].identifier


def test_adapters_are_small_and_a_whole_encoder_is_whole(labelled, bag):  # noqa: F811
    adapters = fit(labelled, bag, "lora", shots=2).head.changes
    layers = {name.rpartition(".")[0] for name in adapters}
    assert layers == {"cell_encoder.mix.hidden.weight", "cell_projection.weight"}
    whole = fit(labelled, bag, "full", shots=2).head.changes
    names = {name for name, _ in bag.named_parameters()}
    assert set(whole) == {name for name in names if name.startswith("cell_")}


def test_the_card_says_what_of_the_model_is_in_the_folder(labelled, bag):  # noqa: F811
    fitted = fit(labelled, bag, "lora", shots=2)
    n_bytes = sum(each.nbytes for each in fitted.head.changes.values())
    line = f"low-rank adapters of cell encoder and cell projection, {n_bytes / 1e6:.1f} MB"
    assert line in head_card(fitted, command="langcell x")


def test_a_frozen_bag_reads_as_the_model_that_learnt(labelled, tiny_bag, bag):  # noqa: F811
    """The head on a bag without torch, and on the same as a module of torch."""
    head = fit(labelled, tiny_bag, "lora", shots=5).head
    frozen, tuned = FrozenBag.read(tiny_bag), bag.changed(head.changes)
    assert head.adapt(frozen).sha256 == tuned.sha256 != bag.sha256
    ids = torch.tensor([[bag.genes.cls_id, 5, 9, 2, 40]])
    with torch.no_grad():
        wanted = tuned.encode_cell(ids, None).features.numpy()
        plain = bag.encode_cell(ids, None).features.numpy()
    tokens = ids[0, 1:].numpy().astype(np.uint16)
    found = head.adapt(frozen).encode_tokens(tokens, np.array([0, 4]))
    assert found == pytest.approx(wanted, abs=1e-5) and np.abs(found - plain).max() > 1e-3


def test_draws_are_even_and_use_every_cell():
    labels = np.array([0] * 50 + [1] * 5)
    draws = sample_epoch(labels, batch_size=20, is_balanced=True, seed=0, epoch=3)
    drawn = np.concatenate(draws)
    assert len(drawn) == 55 and np.bincount(labels[drawn[:20]]).tolist() == [10, 10]
    assert np.bincount(drawn[labels[drawn] == 1])[50:].max() <= 6  # in turns
    rest = sample_epoch(labels, batch_size=20, is_balanced=False, seed=0, epoch=3)
    assert sorted(np.concatenate(rest)) == list(range(55))
    other = sample_epoch(labels, batch_size=20, is_balanced=True, seed=0, epoch=4)
    assert np.concatenate(other).tolist() != drawn.tolist()


def test_changes_that_do_not_fit_are_refused():
    weights = {"a": np.zeros((2, 3))}
    with pytest.raises(ValueError, match="b is not a weight of the model"):
        changed_weights(weights, {"b": np.zeros(3)})
    with pytest.raises(
        ValueError, match=r"a gives a weight of shape \(2,\), but the model's weight has"
    ):
        changed_weights(weights, {"a": np.zeros(2)})
    with pytest.raises(ValueError, match=r"a.up gives a weight of shape"):
        changed_weights(weights, {"a.up": np.zeros((2, 1)), "a.down": np.zeros((2, 3))})


@pytest.mark.parametrize(
    ("kind", "options", "labels", "message"),
    [
        ("langcell", {}, None, "a released LangCell .* or pass kind='lora' or kind='full'"),
        ("lora", {"labels": ("T cell",)}, "B cell", "needs cells of at least two labels, got one"),
        ("langcell-ce", {"labels": ("neuron",)}, None, "on cells only, and label CL:0000540"),
    ],
)
def test_what_cannot_be_tuned_is_refused(labelled, bag, kind, options, labels, message):  # noqa: F811
    if labels:
        labelled.obs["mine"] = labels
    with pytest.raises(ValueError, match=message):
        fit(
            labelled,
            LangCell.from_pretrained("mini-fast") if kind == "langcell" else bag,
            kind,
            **options,
        )


def test_a_bag_without_torch_cannot_learn(labelled, tiny_bag):  # noqa: F811
    with pytest.raises(ValueError, match="a FrozenBag has no trainable weights: pass the name"):
        fit(labelled, FrozenBag.read(tiny_bag), "lora")


def test_a_tuned_head_without_its_changes_is_refused(labelled, bag, tmp_path):  # noqa: F811
    head = fit(labelled, bag, "lora", shots=2).head
    write_head(head, tmp_path / "head", card="")
    path = tmp_path / "head" / "model_changes.safetensors"
    changes = load_file(path)
    name = next(iter(changes))
    save_file({**changes, name: changes[name] * np.nan}, path)
    with pytest.raises(ValueError, match="holds values that are not finite"):
        read_head(tmp_path / "head")
    save_file({"another": np.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model_changes.safetensors belongs to another head"):
        read_head(tmp_path / "head")
    path.unlink()
    with pytest.raises(ValueError, match="has no model_changes.safetensors, the weights"):
        read_head(tmp_path / "head")


def test_one_cell_a_label_is_tuned_without_a_judge(labelled, bag):  # noqa: F811
    fitted = fit(labelled, bag, "lora", shots=1)
    assert fitted.held_out == "" and fitted.head.n_shots.tolist() == [1, 1, 1]
    assert fitted.head.changes and fitted.head.feature_weights.any()


def test_a_label_without_cells_is_not_spoken_against(labelled, bag):  # noqa: F811
    fitted = fit(labelled, bag, "lora", shots=1, labels=("natural killer cell",))
    head, row = fitted.head, fitted.head.keys.index("CL:0000623")
    assert head.n_shots[row] == 0 and head.text_weight == 1
    assert not head.feature_weights[row].any() and head.intercepts[row] == 0
    assert np.delete(head.feature_weights, row, axis=0).any(axis=1).all()


def test_ctrl_c_ends_it(labelled, bag):  # noqa: F811
    handler = signal.getsignal(signal.SIGINT)
    options = FewShotOptions(kind="lora", shots=3)

    def interrupt(done, n_cells):
        if n_cells > 90:  # cells are learnt from many times
            assert 0 < done <= n_cells
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="interrupted during fine-tuning; nothing was"):
        fit_few_shot(labelled, "mine", model=bag, options=options, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
