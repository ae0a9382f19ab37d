"""What a training step computes from a batch, and how validation studies are scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from langcell.model.langcell import LangCell
from langcell.nn.features import TextFeatures
from langcell.nn.losses import subtree_loss
from pretrain.recipe.config import Losses
from pretrain.run.validation import LabelledTokens, score_studies
from pretrain.steps.collator import StepBatch
from pretrain.steps.objective import Objective
from pretrain.steps.step_sizes import StepSizes
from pretrain.texts.text_tensors import TextTensors

N_TERMS, N_TEXTS, N_LABELS, HIDDEN = 4, 6, 5, 32
ALL = Losses(masked_gene=1, cell_cell=1, cell_text=1, matching=1, matching_cells=4)
# Type 1 is a descendant of type 0.
TARGETS = torch.eye(N_TERMS)
TARGETS[1, :2] = torch.tensor([0.25, 0.75])


@pytest.fixture
def model(tiny_model: Path) -> LangCell:
    return LangCell.from_pretrained(tiny_model)


def make_texts(seed: int = 0) -> TextTensors:
    """Six texts of four types; type 0 is above type 1; label i is type i, the last no type."""
    generator = torch.Generator().manual_seed(seed)
    comparable = torch.eye(N_TERMS).bool()
    comparable[0, 1] = comparable[1, 0] = True
    empty = torch.empty(0)
    return TextTensors(
        pooled=torch.randn(N_TEXTS, HIDDEN, generator=generator),
        term=torch.tensor([0, 1, 2, 3, 0, 1]),
        aspects=torch.full((N_TEXTS, 3), -1),
        templates=TextFeatures(
            input_ids=torch.zeros(N_TERMS, 7, dtype=torch.int64),
            attention_mask=torch.ones(N_TERMS, 7, dtype=torch.int64),
            states=torch.randn(N_TERMS, 7, HIDDEN, generator=generator).half(),
            pooled=empty,
            features=empty,
        ),
        template_rows=torch.tensor([0, 1, 2, 3]),
        comparable=comparable,
        labels=torch.randn(N_LABELS + 1, HIDDEN, generator=generator),
        descriptions=torch.arange(N_LABELS),
        targets=torch.nn.functional.pad(TARGETS, (0, N_LABELS - N_TERMS)),
        label_comparable=torch.nn.functional.pad(comparable, (0, N_LABELS - N_TERMS)),
        descendants=None,
    )


def make_batch(model: LangCell, terms: list[int]) -> StepBatch:
    """Each cell twice, the second time as its second view."""
    assert model.vocabulary is not None
    n_cells, n_genes = len(terms), model.vocabulary.n_genes
    rng = np.random.default_rng(0)
    ids = rng.integers(2, n_genes + 2, (2 * n_cells, 12))
    ids[:, 0] = model.vocabulary.cls_id
    return StepBatch(
        step=3,
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.ones(2 * n_cells, 12, dtype=torch.bool),
        masked_rows=torch.arange(n_cells),
        masked_columns=torch.full((n_cells,), 2),
        masked_genes=torch.from_numpy(ids[:n_cells, 2]),
        measured=torch.ones(n_cells, n_genes, dtype=torch.bool),
        terms=torch.tensor(terms),
        aspects=torch.full((n_cells, 3), -1),
        texts=torch.tensor([0, 1, 2, 3]),
        labels=torch.arange(N_LABELS),
    )


def training_losses(
    model: LangCell, batch: StepBatch, texts: TextTensors, weights: Losses
) -> dict[str, torch.Tensor]:
    objective = Objective(model=model, texts=texts, weights=weights)
    cells = model.encode_cell(batch.input_ids, batch.attention_mask)
    read = objective.texts_of(batch, torch.empty(0))
    sizes = StepSizes.of(batch, objective.world)
    losses = objective.of_features(batch, sizes, cells.features, read)
    return losses | objective.of_states(batch, sizes, cells)


def test_losses_without_a_weight_are_left_out(model: LangCell) -> None:
    batch = make_batch(model, [0, 1, 2, 3])
    losses = training_losses(model, batch, make_texts(), ALL)
    assert set(losses) == {"masked_gene", "cell_cell", "cell_text", "ontology", "matching"}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    some = ALL.model_copy(update={"matching": 0, "cell_cell": 0, "ontology": 0})
    assert set(training_losses(model, batch, make_texts(), some)) == {
        "masked_gene",
        "cell_text",
    }


def test_the_ontology_pulls_ancestors_and_ignores_descendants(model: LangCell) -> None:
    weights = Losses(masked_gene=0, cell_cell=0, cell_text=0, ontology=1, matching=0)

    def gradient(terms: list[int]) -> torch.Tensor:
        texts = make_texts()
        texts.labels.requires_grad_()
        losses = training_losses(model, make_batch(model, terms), texts, weights)
        (found,) = torch.autograd.grad(losses["ontology"], texts.labels)
        return found.abs().amax(dim=1)

    above, descendants = gradient([0, 0]), gradient([1, 1])
    assert above[1] == 0  # type 1 is a descendant of type 0: it is neither right nor wrong
    assert (above[[0, 2, 3, 4]] > 0).all()
    assert (descendants[:5] > 0).all()
    assert above[5] == descendants[5] == 0  # a wording that the step does not show


def test_the_subtree_form_reads_what_lies_below(model: LangCell) -> None:
    descendants = torch.eye(N_LABELS)
    descendants[1, 0] = 1
    texts = replace(make_texts(), descendants=descendants)
    weights = Losses(masked_gene=0, cell_cell=0, cell_text=0, ontology=1, matching=0)
    batch = make_batch(model, [0, 1])
    with torch.no_grad():
        got = training_losses(model, batch, texts, weights)["ontology"]
        features = model.encode_cell(batch.input_ids, batch.attention_mask).features
        labels = model.project_text(texts.labels[:N_LABELS])
        wanted = subtree_loss(
            features, labels, texts.targets[[0, 1, 0, 1]], descendants, model.scale
        )
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_matching_of_comparable_types_alone_has_no_mismatch(
    model: LangCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def record(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return logits.sum()

    monkeypatch.setattr("pretrain.steps.match_pairs.matching_loss", record)
    weights = Losses(
        masked_gene=0, cell_cell=0, cell_text=0, ontology=0, matching=1, matching_cells=4
    )
    training_losses(model, make_batch(model, [0, 1, 0, 1]), make_texts(), weights)
    # Each cell has a wrong text (type 2 or 3), but no wrong cell stands in the batch.
    assert seen[0].tolist() == [1] * 4 + [0] * 4
    training_losses(model, make_batch(model, [0, 2, 3, 3]), make_texts(), weights)
    assert seen[1].tolist() == [1] * 4 + [0] * 8


def test_files_of_one_study_are_averaged_first(model: LangCell) -> None:
    assert model.vocabulary is not None
    rng = np.random.default_rng(0)
    cells = tuple(
        rng.integers(2, model.vocabulary.n_genes + 2, 20).astype(np.uint16) for _ in range(30)
    )
    candidates = torch.from_numpy(rng.normal(size=(3, HIDDEN))).float()

    def file(study: str, truth: np.ndarray) -> LabelledTokens:
        return LabelledTokens(study=study, cells=cells, truth=truth, candidates=np.arange(3))

    settings = {"batch_size": 8, "min_cells": 1}
    (alone,) = score_studies(model, [file("a", np.zeros(30, int))], candidates, cells, **settings)
    (other,) = score_studies(model, [file("a", np.ones(30, int))], candidates, cells, **settings)
    both = score_studies(
        model,
        [file("a", np.zeros(30, int)), file("b", np.ones(30, int)), file("a", np.ones(30, int))],
        candidates,
        cells,
        **settings,
    )
    assert [score.study for score in both] == ["a", "b"]
    assert both[0].accuracy == pytest.approx((alone.accuracy + other.accuracy) / 2)
    assert (both[1].accuracy, both[1].macro_f1) == (other.accuracy, other.macro_f1)
