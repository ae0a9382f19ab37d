"""How unlike the labelled cells of a head other cells are."""

from dataclasses import replace

import numpy as np
import pytest

from langcell.model.langcell import LangCell
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.novelty import Novelty
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.options import FewShotOptions
from zeroshot.heads.head_file import read_head, write_head
from zeroshot.report.warnings import notes
from zeroshot.results.called_cells import CalledCells


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_scores_by_a_slow_way():
    rng = np.random.default_rng(0)
    features, texts = unit(rng.normal(size=(12, 6))), unit(rng.normal(size=(3, 6)))
    labels = np.array([0, 1] * 6)  # the third label has a text alone
    novelty = Novelty.of(features, labels, texts)
    for label in range(3):
        whole = features[labels == label].sum(axis=0) + 3 * texts[label]
        assert novelty.prototypes[label] == pytest.approx(unit(whole), abs=1e-6)
    nearest = []
    for cell in range(12):
        rest = np.arange(12) != cell
        prototypes = [
            unit(features[rest & (labels == label)].sum(axis=0) + 3 * texts[label])
            for label in range(3)
        ]
        nearest.append(max(features[cell] @ each for each in prototypes))
    assert (novelty.typical, novelty.far) == pytest.approx(np.percentile(nearest, [50, 1]))
    others = unit(rng.normal(size=(5, 6))).astype(np.float32)
    similarity = (others @ novelty.prototypes.T).max(axis=1)
    wanted = (novelty.typical - similarity) / (novelty.typical - novelty.far)
    assert novelty(others) == pytest.approx(wanted, abs=1e-3)
    assert novelty(others[:1]) == novelty(others)[:1]


def test_one_cell_a_label_is_held_against_its_text():
    texts = np.eye(2, 4)
    cells = unit(np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    novelty = Novelty.of(cells, np.array([0, 1]), texts)
    assert novelty.typical == pytest.approx(np.sqrt(0.5))


def test_a_head_tells_types_without_a_label(make_cells, tiny_bag, tmp_path):
    """Three types of 40 genes each, of which two have labels."""
    model = LangCell.from_pretrained(str(tiny_bag))
    adata = make_cells(90)
    dense = adata.X.toarray()
    kinds = np.arange(90) % 3
    for kind in range(3):
        genes = range(40 * kind, 40 * kind + 40)
        dense[np.ix_(kinds == kind, genes)] += 12
    adata.X = type(adata.X)(dense)
    adata.obs["mine"] = np.array(["B cell", "T cell", ""])[kinds]
    adata.obs["mine"] = adata.obs["mine"].where(np.arange(90) < 60, "")
    head = fit_few_shot(adata, "mine", model=model, options=FewShotOptions()).head
    write_head(head, tmp_path / "head", card="")
    again = read_head(tmp_path / "head")
    annotate(adata, model=model, options=AnnotateOptions(head=again))
    scores = adata.obs["langcell_ood"].to_numpy()[60:]
    is_novel = kinds[60:] == 2
    assert scores[is_novel].min() > max(1, scores[~is_novel].max())
    assert "nearest label of the head" in adata.uns["langcell"]["ood"]


def test_a_report_names_what_cells_are_unlike(called_cells):
    cells = called_cells
    unusual = np.ones(len(cells), dtype=bool)
    for details, said in (({}, "the training data"), ({"head": {"id": "x"}}, "the labelled cells")):
        found = notes(replace(cells, details=details), (), (), unusual, None)
        assert f"Many cells are unlike {said}" in [note.title for note in found]


@pytest.fixture
def called_cells():
    names = np.array(["B cell"] * 20, dtype=object)
    numbers = np.full(20, 0.9)
    return CalledCells(
        labels=names,
        term_ids=np.array(["CL:0000236"] * 20, dtype=object),
        leaf_labels=names,
        confidence=numbers,
        leaf_confidence=numbers,
        margin=numbers,
        ood=np.full(20, 2.0),
        has_confidence=True,
        threshold=0.9,
        details={},
    )
