"""What a calibration records of its own worth."""

from dataclasses import asdict

import numpy as np
import pytest

from zeroshot.confidence.calibration import Calibration, CalibrationCurve
from zeroshot.confidence.reliability import (
    Reliability,
    deepest,
    measure_reliability,
    reliability_bins,
)
from zeroshot.fit.fit_calibration import LabelledTerms, fit_calibration, fit_curve, measure_curve


def test_figures_by_hand():
    one = [
        (
            np.array([[0.99, 0.96], [0.9, 0.62], [0.7, 0.3]]),
            np.array([[True, True], [True, False], [False, False]]),
        ),
        (np.array([[0.4]]), np.array([[False]])),  # a part with fewer depths, and no call
    ]
    other = [(np.array([[0.97], [0.61]]), np.array([[True], [True]]))]
    found = measure_reliability({"one": one, "other": other}, measured_on="paper")
    # Deepest calls of at least 0.5: 0.96 right, 0.62 wrong, 0.7 wrong; 0.97 right, 0.61 right.
    assert found.n_cells == (2, 1, 2), "bins of 0.05 from 0.6, 0.7 and 0.95"
    assert found.confidence == (round((0.62 / 3 + 0.61 / 2) / (1 / 3 + 1 / 2), 4), 0.7, 0.966)
    assert found.accuracy == (0.6, 0.0, 1.0), "studies weigh the same"
    first = np.mean([abs(0.96 - 1), 0.62, 0.7])
    second = np.mean([abs(0.97 - 1), abs(0.61 - 1)])
    assert found.ece == pytest.approx(np.mean([first, second]), abs=1e-4)
    at = {
        level: (coverage, risk)
        for level, coverage, risk in zip(found.levels, found.coverage, found.risk, strict=True)
    }
    assert at[0.5] == (round((3 / 4 + 1) / 2, 4), round((2 / 3 + 0) / 2, 4))
    # At 0.9 the second cell is called at its first depth, which is right.
    assert at[0.9] == (0.5, 0.0)
    assert at[0.65] == (round((3 / 4 + 1 / 2) / 2, 4), round((1 / 3 + 0) / 2, 4))
    assert Reliability.of(asdict(found)) == found
    assert measure_reliability({"one": one[1:]}, measured_on="") is None, "no call at all"


def test_the_deepest_term_that_reaches_a_threshold():
    made, depth = deepest(np.array([[0.9, 0.8, 0.85], [0.7, 0.6, 0.1]]), 0.82)
    assert made.tolist() == [True, False] and depth.tolist() == [2, 0]


def test_weights_are_those_of_the_means():
    confidence, right = np.array([0.55, 0.58, 0.91]), np.array([True, False, True])
    bins = reliability_bins(confidence, right, weights=np.array([3.0, 1.0, 1.0]))
    assert bins.accuracy.tolist() == [0.75, 1.0] and bins.n_cells.tolist() == [2, 1]
    assert bins.confidence[0] == pytest.approx((3 * 0.55 + 0.58) / 4)


def _rungs(study, curve, seed, n_cells=3000):
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.02, 1, (n_cells, 4))
    sure = curve.confidence(probabilities, np.arange(4))
    return LabelledTerms(
        study=study, probabilities=probabilities, is_right=rng.uniform(size=sure.shape) < sure
    )


def test_a_study_is_judged_by_what_was_learnt_on_the_others():
    easy, hard = (
        _rungs("easy", CalibrationCurve(intercept=1), 0),
        _rungs("hard", CalibrationCurve(intercept=-1), 1),
    )
    measured = measure_curve([easy, hard], temperature=1.0, measured_on="both")
    labelled = {}
    for study, other in ((easy, hard), (hard, easy)):
        curve = fit_curve([other], temperature=1.0)
        sure = curve.confidence(study.probabilities, np.arange(4))
        labelled[study.study] = [(sure, study.is_right)]
    assert measured == measure_reliability(labelled, measured_on="both")
    together = fit_curve([easy, hard], temperature=1.0)
    seen = {
        part.study: [(together.confidence(part.probabilities, np.arange(4)), part.is_right)]
        for part in (easy, hard)
    }
    assert measured.ece > measure_reliability(seen, measured_on="both").ece + 0.05
    assert measure_curve([easy, easy], temperature=1.0, measured_on="one") is None


def test_a_calibration_carries_it_and_still_does_the_same(tmp_path):
    parts = [_rungs("a", CalibrationCurve(intercept=1), 0), _rungs("b", CalibrationCurve(), 1)]
    made = fit_calibration(parts, parts, model_sha256="x", remark="made up")
    assert made.reliability(is_choice=False).measured_on == (
        "all cell types as candidates; each study by what was learnt on the others; made up"
    )
    assert "the types of each study" in made.reliability(is_choice=True).measured_on
    (tmp_path / "c.json").write_text(made.to_json(), encoding="utf-8")
    assert Calibration.read(tmp_path / "c.json") == made
    bare = Calibration(all_types=made.all_types, given=made.given, model_sha256="x")
    assert bare.identifier == made.identifier, "what it is worth is not what it does"
    ragged = made.to_json().replace('"risk": [', '"risk": [0.5,')
    with pytest.raises(
        ValueError,
        match="is not a calibration: columns of a reliability record must have equal lengths",
    ):
        Calibration.from_json(ragged, "c.json")
    alone = fit_calibration(parts[:1], parts[:1], model_sha256="x")
    assert alone.all_types_reliability is None
    assert Calibration.from_json(alone.to_json(), "alone") == alone
