"""Label offsets: how near labels lie to cells at large."""

from pathlib import Path

import numpy as np
import pytest

from langcell.checkpoints.reference_cells import ReferenceCells
from zeroshot.scores.label_index import LabelIndex
from zeroshot.scores.scores import best_scores


def unit(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_offsets_equal_the_mean_by_hand() -> None:
    cells, labels = unit(50, 0), unit(3, 1)
    offsets = ReferenceCells(features=cells.astype(np.float16)).label_offsets(labels, 10.0)
    wanted = np.log(np.exp(10 * cells @ labels.T).mean(axis=0)) / 10
    np.testing.assert_allclose(offsets, wanted, atol=1e-3)  # the reference is stored in float16


def test_large_scales_do_not_overflow() -> None:
    labels = unit(3, 1)
    offsets = ReferenceCells(features=labels.astype(np.float16)).label_offsets(labels, 1e4)
    assert np.isfinite(offsets).all()
    assert (offsets > 0.99).all()


def test_offsets_are_taken_off_in_search_and_probabilities() -> None:
    cells, labels = unit(5, 0), unit(4, 1)
    offsets = np.array([0.3, 0.0, -0.2, 0.1], dtype=np.float32)
    index = LabelIndex(labels, ["a", "b", "c", "d"], offsets)
    similarities, found = index.search(cells, 4)
    wanted = cells @ labels.T - offsets
    np.testing.assert_array_equal(found, np.argsort(-wanted, axis=1))
    np.testing.assert_allclose(similarities, -np.sort(-wanted, axis=1), atol=1e-6)
    scores = best_scores(cells, index, index.log_probabilities(cells, 5.0), top_k=4)
    np.testing.assert_allclose(np.exp(scores.log_probabilities).sum(axis=1), 1, atol=1e-6)


def test_reference_cells_survive_saving(tmp_path: Path) -> None:
    cells = ReferenceCells(features=unit(4, 0).astype(np.float16))
    cells.write(tmp_path)
    np.testing.assert_array_equal(ReferenceCells.read(tmp_path).features, cells.features)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "reference.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"reference\.safetensors is damaged"):
        ReferenceCells.read(tmp_path)
