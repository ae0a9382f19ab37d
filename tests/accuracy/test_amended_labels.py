"""Labels that calibration sets right: which cells are left out, which calls also count as right."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.data.amended_labels import amend, contradicted
from benchmarks.data.studies import LabelledFile, read_validation_files
from ontology.graph import Ontology
from zeroshot.confidence.backoff import TermsByDepth
from zeroshot.confidence.term_tree import TermTree
from zeroshot.fit.fit_calibration import label_terms
from zeroshot.labels.candidates import own_candidates

T, MAST, B, GLIOBLAST, NEURON = "CL:0000084", "CL:0000097", "CL:0000236", "CL:0000030", "CL:0000540"
NEURAL, CELL = "CL:0002319", "CL:0000000"
PROSTATE = "Chen 2021 prostate"
ONTOLOGY = Ontology.bundled()


def _file(study, truth, path=Path("nowhere.h5ad"), is_labelled=None):
    truth = np.array(truth, dtype=object)
    return LabelledFile(
        name="file",
        study=study,
        path=path,
        scale="counts",
        tissues=(),
        is_labelled=np.ones(len(truth), dtype=bool) if is_labelled is None else is_labelled,
        truth_ids=truth,
    )


@pytest.fixture
def prostate(tmp_path, coding_genes):
    """Cells with the genes that their comments name, the fourth of them without a label."""
    genes = {"CD3D": 0, "LYZ": 1, "KIT": 2}
    wanted = [
        (T, ["CD3D"]),
        (T, ["LYZ"]),  # a myeloid gene and none of a T cell
        (T, []),  # too shallow to say
        ("", ["LYZ"]),
        (T, ["CD3D", "LYZ"]),  # perhaps a doublet, but not without T cell genes
        (MAST, []),
        (MAST, ["KIT"]),
        (B, ["LYZ"]),  # nothing is known against this label
    ]
    counts = np.ones((len(wanted), len(coding_genes)), dtype=np.float32)
    counts[:, :3] = 0
    for row, (_, expressed) in enumerate(wanted):
        counts[row, [genes[gene] for gene in expressed]] = 2
    others = [gene for gene in coding_genes if gene not in genes][: len(coding_genes) - 3]
    var = pd.DataFrame(index=[*genes, *others])
    path = tmp_path / "prostate.h5ad"
    anndata.AnnData(sparse.csr_matrix(counts[:, : len(var)]), var=var).write_h5ad(path)
    is_labelled = np.array([bool(term_id) for term_id, _ in wanted])
    return _file(PROSTATE, [each for each, _ in wanted if each], path, is_labelled)


def test_labels_that_the_genes_contradict(prostate):
    # of the labelled cells: the second T cell and the first mast cell
    assert np.flatnonzero(contradicted(prostate)).tolist() == [1, 4]


def test_other_studies_are_taken_at_their_word():
    assert contradicted(_file("Kang 2018", [T, MAST])).tolist() == [False, False]


def _ladder(n_cells):
    """All cells back off from neuron over neural cell to cell."""
    tree = TermTree.of(own_candidates(["neuron", "B cell"], ONTOLOGY), ONTOLOGY)
    terms = np.tile([tree.ids.index(each) for each in (CELL, NEURAL, NEURON)], (n_cells, 1))
    return TermsByDepth(
        tree=tree,
        terms=terms.astype(np.int32),
        probabilities=np.full((n_cells, 3), 0.5),
        leaf_terms=terms[:, 2].astype(np.int32),
        leaf_probabilities=np.full(n_cells, 0.5),
    )


def test_a_glioblast_is_a_neural_cell_and_contradicted_cells_are_left_out():
    truth, by_depth = [GLIOBLAST, NEURON, B, GLIOBLAST], _ladder(4)
    file = _file("Braun fetal cortex", truth)
    published = label_terms(by_depth, np.array(truth), ONTOLOGY, study=file.study)
    neural = published.is_right[:, 1].tolist()
    assert neural == [False, True, False, False], "as CL has it, a glioblast is none"
    wrong = np.array([False, False, False, True])
    amended = amend(published, by_depth, file, wrong)
    assert amended.study == file.study
    assert amended.probabilities.shape == amended.is_right.shape == (3, 3)
    assert amended.is_right[:, 1].tolist() == [True, True, False]
    for depth in (0, 2):
        assert (amended.is_right[:, depth] == published.is_right[:3, depth]).all()
    assert not published.is_right[0, 1], "what was published is left as it was"


def test_few_labels_of_the_prostate_are_contradicted_and_only_two_kinds(shared):
    (file,) = [each for each in read_validation_files(shared / "corpus") if each.study == PROSTATE]
    wrong = contradicted(file)
    assert set(file.truth_ids[wrong]) == {T, MAST}
    assert 0 < wrong.mean() < 0.25
