import json

import anndata
import numpy as np
import pytest

from benchmarks.scoring.selective import area_under_risk, selective_figures
from langcell.checkpoints.checkpoint import list_bundled_models, resolve_checkpoint
from langcell.checkpoints.text_towers import sha256_of
from langcell.model.langcell import LangCell
from tests.support.command_line import run_langcell
from zeroshot.confidence.calibration import UNCALIBRATED, Calibration, CalibrationCurve
from zeroshot.confidence.reliability import Reliability
from zeroshot.fit.fit_calibration import LabelledTerms, calibrate, fit_curve


def test_no_calibration_changes_nothing():
    probabilities = np.array([0.0, 0.2, 0.97])
    assert CalibrationCurve().confidence(probabilities, np.array([9, 3, 1])) == pytest.approx(
        probabilities, abs=1e-5
    )
    assert UNCALIBRATED.identifier == "uncalibrated"


def _rungs(study, n_cells, curve, seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.02, 1, (n_cells, 6))
    sure = curve.confidence(probabilities, np.arange(6))
    return LabelledTerms(
        study=study, probabilities=probabilities, is_right=rng.uniform(size=sure.shape) < sure
    )


def test_the_curve_that_made_the_outcomes_is_found():
    true = CalibrationCurve(temperature=0.7, slope=0.8, depth_cost=0.3, intercept=0.5)
    found = fit_curve([_rungs("a", 20_000, true, 0), _rungs("b", 20_000, true, 1)], temperature=0.7)
    # 240,000 outcomes: a standard error of about 0.01
    for name in ("slope", "depth_cost", "intercept"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), abs=0.04)


def test_studies_weigh_the_same_whatever_their_size():
    hard, easy = CalibrationCurve(intercept=-1), CalibrationCurve(intercept=1)
    small, large = _rungs("hard", 4_000, hard, 0), _rungs("easy", 40_000, easy, 1)
    halves = [
        LabelledTerms(study="easy", probabilities=p, is_right=r)
        for p, r in zip(np.split(large.probabilities, 2), np.split(large.is_right, 2), strict=True)
    ]
    found = fit_curve([small, large], temperature=1.0)
    assert found == fit_curve([small, *halves], temperature=1.0)
    assert found.intercept == pytest.approx(0, abs=0.1)


def test_slopes_do_not_turn_round():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.02, 1, (500, 6))
    upside_down = LabelledTerms(
        study="a", probabilities=probabilities, is_right=rng.uniform(size=(500, 6)) > probabilities
    )
    assert fit_curve([upside_down], temperature=1.0).slope == 0


def test_a_file_is_read_as_it_was_written_or_refused(tmp_path):
    made = Calibration(
        all_types=CalibrationCurve(slope=0.5),
        given=CalibrationCurve(depth_cost=0.1),
        fitted_on=("a", "b"),
        command="x",
    )
    path = tmp_path / "c.json"
    path.write_text(made.to_json(), encoding="utf-8")
    assert Calibration.read(path) == made and made.identifier != "uncalibrated"
    for text in ("no", "[]", "{}", json.dumps({"format_version": 9}), made.to_json()[:40]):
        with pytest.raises(ValueError, match="is not a calibration"):
            Calibration.from_json(text, "c.json")
    with pytest.raises(ValueError, match="slope >= 0 and depth_cost >= 0"):
        CalibrationCurve(slope=-1)


def test_bundled_calibrations_belong_to_their_weights():
    for name in list_bundled_models():
        folder = resolve_checkpoint(name)
        calibration = Calibration.read(folder / "calibration.json")
        assert calibration.model_sha256 == sha256_of(folder / "model.safetensors")
        assert len(calibration.fitted_on) == 6 and name in calibration.command
        for is_choice in (True, False):
            measured = calibration.reliability(is_choice=is_choice)
            assert sum(measured.n_cells) > 10_000 and 0.9 in measured.levels
            assert "amended_labels" in measured.measured_on


def test_a_calibration_travels_with_its_model(tiny_model, tmp_path):
    model = LangCell.from_pretrained(str(tiny_model))
    model.calibration = UNCALIBRATED.to_json()
    model.save_pretrained(tmp_path / "copy")
    assert LangCell.from_pretrained(tmp_path / "copy").calibration == model.calibration


@pytest.mark.filterwarnings("ignore:.*are too few to calibrate for other studies")
def test_the_command_learns_what_the_function_does(make_cells, tiny_model, tmp_path):
    adata = make_cells(60)
    adata.obs["study"] = ["one", "two"] * 30
    adata.write_h5ad(tmp_path / "cells.h5ad")
    words = ["zeroshot", "calibrate", "--h5ad", "cells.h5ad", "--truth", "cell_type"]
    words += ["--study-key", "study", "--model", str(tiny_model), "--out", "c.json"]
    done = run_langcell(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("studies\tone, two\n")
    assert done.stdout.count("\ncalibration error\t0.") == 2
    read = Calibration.read(tmp_path / "c.json")
    wanted = calibrate(
        [tmp_path / "cells.h5ad"], truth="cell_type", study_key="study", model=str(tiny_model)
    )
    assert read.identifier == wanted.identifier and read.fitted_on == ("one", "two")
    assert read.command.startswith("langcell zeroshot calibrate --h5ad cells.h5ad")
    use = ["zeroshot", "--h5ad", "cells.h5ad", "--model", str(tiny_model), "--out", "named.h5ad"]
    done = run_langcell(tmp_path, *use, "--calibration", "c.json", "--confidence", "0.5")
    assert done.returncode == 0, done.stderr
    notes = anndata.read_h5ad(tmp_path / "named.h5ad").uns["langcell"]
    recorded = Reliability.of(notes["calibration"]["reliability"])
    assert recorded == wanted.all_types_reliability == read.all_types_reliability
    assert notes["calibration"]["id"] == wanted.identifier
    assert notes["parameters"]["confidence"] == 0.5


def test_labels_that_cannot_calibrate_are_refused(make_cells, tiny_model, tmp_path):
    adata = make_cells(6)
    adata.obs["one"] = "B cell"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="no study has two cell types in obs\\['one'\\]"):
        calibrate([tmp_path / "cells.h5ad"], truth="one", model=str(tiny_model))


def test_figures_of_calls_by_hand():
    confidence = np.array([[0.99, 0.95], [0.96, 0.6], [0.7, 0.3], [0.2, 0.1]])
    is_right = np.array([[True, False], [True, True], [False, False], [False, False]])
    figures = selective_figures(confidence, is_right, np.array([2, 5]), level=0.9)
    assert figures.accuracy == 0.5 and figures.coverage == 0.5 and figures.depth == 3.5
    # at 0.5: cell 0 called at its second depth, wrong; cell 1 too, right; cell 2 at its first, wrong
    assert figures.ece == pytest.approx((0.95 + 0.4 + 0.7) / 3)
    assert figures.aurc == pytest.approx(np.mean([1, 1, 2 / 3, 3 / 4]))
    assert area_under_risk(np.empty(0), np.empty(0, dtype=bool), n_cells=3) == 1


def test_few_cells_are_said_to_be_few(make_cells, tiny_model, tmp_path):
    make_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.warns(UserWarning, match="60 labelled cells of 1 studies are too few"):
        calibrate([tmp_path / "cells.h5ad"], truth="cell_type", model=str(tiny_model))


def test_a_file_that_is_no_calibration_is_named(tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match="cells.h5ad is not a calibration: not a UTF-8 text file"):
        Calibration.read(path)
