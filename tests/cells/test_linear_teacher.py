"""The teacher on log counts: what it reads, that it learns, and what it may change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from langcell.genes.gene_table import GeneTable
from langcell.model.langcell import LangCell
from pretrain.cells.linear_teacher import LinearTeacher, fit_linear_teacher, log_counts
from pretrain.cells.memory_corpus import Corpus
from pretrain.cells.sampling import CellSampler, SampledCells
from pretrain.recipe.cell_config import Augmentation, Balance
from pretrain.recipe.config import LinearTeacherSettings
from pretrain.recipe.recipe_file import read_recipe
from pretrain.recipe.sources import SourceFile
from pretrain.steps.teachers import Teachers

N_GENES = 400
SETTINGS = LinearTeacherSettings(steps=40, genes=80, lr=0.02)


def marked_sampler() -> CellSampler:
    """Three types, each with 20 genes of its own; the second source lacks half of the genes."""
    rng = np.random.default_rng(0)
    n_examples = 60
    source, term = np.arange(n_examples) % 2, np.arange(n_examples) % 3
    values = rng.poisson(30, (n_examples, N_GENES)).astype(np.float32)
    for row, each in enumerate(term):
        values[row, 20 * each : 20 * (each + 1)] *= 20
    measured = np.ones((2, N_GENES), bool)
    measured[1, N_GENES // 2 :] = False
    values[~measured[source]] = 0
    table = GeneTable.bundled()
    corpus = Corpus(
        values=sparse.csr_matrix(values),
        ensembl_ids=tuple(table.ensembl_ids[table.is_protein_coding][:N_GENES]),
        measured=measured,
        sources=tuple(
            SourceFile(path=Path(name), is_profile=False, scale="counts") for name in ("a", "b")
        ),
        source=source,
        term=term,
        study=source,
        aspect=np.zeros(n_examples, int),
        is_integral=np.array([True, True]),
        term_ids=("CL:0000084", "CL:0000236", "CL:0000540"),
        studies=("a", "b"),
        aspects=(("", "", ""),),
        reports=(),
    )
    return CellSampler(corpus, Augmentation(subset=0), Balance(study_share=1), seed=5)


@pytest.fixture(scope="module")
def fitted() -> LinearTeacher:
    return fit_linear_teacher(marked_sampler(), SETTINGS, batch_size=32)


def test_a_gene_has_the_same_value_whatever_else_was_measured() -> None:
    share = np.array([0.5, 0.25, 0.25], np.float32)
    drawn = SampledCells(
        examples=np.arange(2),
        counts=sparse.csr_matrix(np.array([[40, 20, 20], [40, 20, 0]], np.float32)),
        measured=np.array([[True, True, True], [True, True, False]]),
    )
    values, measured = log_counts(drawn, np.array([0, 1]), share)
    # 40 of 80; and 40 of 60, which are three quarters of 80.
    np.testing.assert_allclose(values, np.log1p([[5000, 2500], [5000, 2500]]), rtol=1e-6)
    assert measured.all()


def test_what_is_not_measured_says_nothing(fitted: LinearTeacher) -> None:
    drawn = SampledCells(
        examples=np.zeros(1, int),
        counts=sparse.csr_matrix((1, N_GENES), dtype=np.float32),
        measured=np.zeros((1, N_GENES), bool),
    )
    torch.testing.assert_close(fitted.logits(drawn), fitted.bias[None])


def test_it_learns_the_types(fitted: LinearTeacher) -> None:
    cells = marked_sampler()
    examples = cells.choose(1_000, 90)
    called = fitted.logits(cells.draw(examples, 1_000)).argmax(dim=1).numpy()
    assert np.mean(called == cells.corpus.term[examples]) > 0.9


def test_the_fit_is_the_same_again_and_survives_a_file(
    fitted: LinearTeacher, tmp_path: Path
) -> None:
    again = fit_linear_teacher(marked_sampler(), SETTINGS, batch_size=32)
    again.write(tmp_path / "teacher.safetensors")
    read = LinearTeacher.read(tmp_path / "teacher.safetensors")
    assert torch.equal(read.weight, fitted.weight)
    assert torch.equal(read.genes, fitted.genes)


def test_it_moves_probability_among_types_with_data_alone(tiny_bag: Path) -> None:
    model = LangCell.from_pretrained(tiny_bag).eval()
    labels = torch.nn.functional.normalize(torch.randn(5, model.config.embedding_dim), dim=1)
    teachers = Teachers(
        models=(model,), labels=(labels,), trained=torch.tensor([3, 1]), linear_weight=0.5
    )
    assert model.vocabulary is not None
    ids = torch.tensor([[model.vocabulary.cls_id, 5, 9, 7]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    alone = teachers.probabilities(ids, mask)[0]
    joint = teachers.probabilities(ids, mask, torch.tensor([[2.0, 0.0]]))[0]
    torch.testing.assert_close(joint[[0, 2, 4]], alone[[0, 2, 4]])
    # The odds of the first over the second grow by exp(0.5 * 2).
    odds = (joint[3] / joint[1]) / (alone[3] / alone[1])
    torch.testing.assert_close(odds, torch.tensor(np.e, dtype=odds.dtype))
    torch.testing.assert_close(joint.sum(), torch.tensor(1.0))


def test_it_needs_other_teachers() -> None:
    with pytest.raises(ValueError, match="linear_teacher needs other teachers"):
        read_recipe(
            Path(__file__).parents[2] / "pretrain" / "recipes" / "mini-fast-member.yaml",
            ["linear_teacher.steps=10"],
        )
