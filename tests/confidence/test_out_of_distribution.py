import numpy as np
import pytest

from langcell.checkpoints.reference_cells import ReferenceCells
from zeroshot.confidence.out_of_distribution import OutlierScore


def _unit(rng, *shape):
    features = rng.normal(size=shape).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture
def reference():
    rng = np.random.default_rng(2)
    return ReferenceCells(features=_unit(rng, 400, 8).astype(np.float16))


def test_the_score_is_the_nearest_training_cell_on_the_scale_of_training(reference):
    cells = _unit(np.random.default_rng(3), 300, 8)
    train = reference.features.astype(np.float64)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    among = train @ train.T
    np.fill_diagonal(among, -1)
    typical, far = np.percentile(among.max(axis=1), [50, 1])
    wanted = (typical - (cells @ train.T).max(axis=1)) / (typical - far)
    # three decimals are kept
    assert OutlierScore(reference)(cells) == pytest.approx(wanted, abs=6e-4)


def test_a_cell_has_the_same_score_alone_and_in_company(reference):
    cells = _unit(np.random.default_rng(4), 300, 8)
    score = OutlierScore(reference)
    assert (score(cells[290:291]) == score(cells)[290]).all()


def test_a_training_cell_is_typical_and_its_opposite_is_not(reference):
    direction = np.zeros((1, 8), dtype=np.float32)
    direction[0, 0] = 1
    cone = ReferenceCells(features=_normal(direction + 0.1 * reference.features.astype(np.float32)))
    score = OutlierScore(cone)
    assert score(cone.features[:5].astype(np.float32)).max() <= 0.05
    assert score(-direction)[0] > 1


def _normal(features):
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
