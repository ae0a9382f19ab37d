"""Scores of all cells: what is stored, what is not, and where they are read from."""

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from zeroshot.results.cell_scores import CellScores, read_scores


def _scores(table, ids=None):
    table = np.asarray(table, dtype=np.float32)
    ids = ids or tuple(f"CL:{each}" for each in range(table.shape[1]))
    names = tuple(f"type {each}" for each in range(table.shape[1]))
    return CellScores(
        probabilities=sparse.csr_matrix(table), candidate_ids=ids, candidate_names=names
    )


@given(arrays(np.float32, (7, 5), elements=st.sampled_from([0, 0.125, 0.25, 0.5, 0.75])))
def test_ranks_are_those_of_a_dense_sort(table):
    scores = _scores(table)
    candidates, probabilities = scores.ranked(3)
    for row, values in enumerate(table):
        wanted = [each for each in np.argsort(-values, kind="stable") if values[each] > 0][:3]
        found = candidates[row][candidates[row] >= 0].tolist()
        assert found == wanted
        assert probabilities[row, : len(wanted)].tolist() == values[wanted].tolist()
        assert (probabilities[row, len(wanted) :] == 0).all()
    kept = scores.best_only(2)
    assert kept.ranked(2)[0].tolist() == candidates[:, :2].tolist()
    assert kept.n_stored.max(initial=0) <= 2
    assert (kept.probabilities.toarray() <= table).all()


def test_calls_and_margins_by_hand():
    ids = ("CL:1", "text: glows", "CL:3")
    scores = _scores([[0.2, 0.7, 0.1], [0, 0, 0.5], [0, 0, 0]], ids)
    assert scores.best.tolist() == [1, 2, -1]
    assert scores.margin == pytest.approx([0.5, 0.5, 0])
    assert scores.names.tolist() == ["type 1", "type 2", "unassigned"]
    assert scores.term_ids.tolist() == ["", "CL:3", ""]


def test_what_is_not_stored_shares_what_is_left_and_is_never_likelier():
    # 0.4 left for four; 0.9 left for four, each at most 0.1; nothing left.
    scores = _scores([[0.6, 0, 0, 0, 0], [0.1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    assert scores.unstored == pytest.approx([0.1, 0.1, 5e-6])


def test_columns_must_be_the_candidates():
    with pytest.raises(ValueError, match="Got 3 columns, 2 ids and 3 names"):
        _scores(np.eye(3), ("a", "b"))


@pytest.fixture
def annotated():
    adata = anndata.AnnData(np.ones((3, 2), np.float32))
    adata.obsm["langcell_scores"] = sparse.csr_matrix(np.eye(3, 4, dtype=np.float32))
    ids, names = (np.array([f"{x}{i}" for i in range(4)], object) for x in ("CL:", "type "))
    adata.uns["langcell"] = {"candidate_ids": ids, "candidate_names": names}
    return adata


def test_scores_are_read_from_memory_and_file_alike(annotated, tmp_path):
    annotated.write_h5ad(tmp_path / "named.h5ad")
    for source in (annotated, tmp_path / "named.h5ad", str(tmp_path / "named.h5ad")):
        scores = read_scores(source)
        assert scores.best.tolist() == [0, 1, 2] and len(scores) == 3
        assert scores.candidate_ids == ("CL:0", "CL:1", "CL:2", "CL:3")
        assert scores.candidate_names[3] == "type 3"


def test_a_source_without_scores_is_refused_with_the_way_out(annotated, tmp_path):
    with pytest.raises(
        ValueError, match=r"the AnnData has no obsm\['mine_scores'\]: annotate it first"
    ):
        read_scores(annotated, key="mine")
    del annotated.uns["langcell"]
    annotated.write_h5ad(tmp_path / "bare.h5ad")
    with pytest.raises(ValueError, match=r"bare.h5ad has no uns\['langcell'\]"):
        read_scores(tmp_path / "bare.h5ad")
    (tmp_path / "calls.csv").write_text("cell\n")
    with pytest.raises(ValueError, match="calls.csv: not an h5ad file"):
        read_scores(tmp_path / "calls.csv")
