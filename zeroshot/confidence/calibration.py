"""Calibration curves: map probabilities to confidences; stored with a model as calibration.json."""

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zeroshot.confidence.reliability import Reliability

FILE = "calibration.json"
_FORMAT = 1
_EDGE = 1e-6  # probabilities are clipped to [_EDGE, 1 - _EDGE]


@dataclass(frozen=True, kw_only=True)
class CalibrationCurve:
    """Calibration curve for one kind of candidates; the default is the identity.

    confidence = 1 / (1 + exp(-(slope * logit(probability) + intercept - depth_cost * depth)))

    where the probability is that of a term after dividing the log-probabilities of the candidates
    by the temperature (Guo et al. 2017; Platt 1999). Slope and depth_cost are not negative, so the
    confidence of a parent, which is more probable and less deep, is at least that of its child.
    """

    temperature: float = 1.0
    slope: float = 1.0
    depth_cost: float = 0.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.slope >= 0 and self.depth_cost >= 0):
            raise ValueError(
                "a calibration curve needs temperature > 0, slope >= 0 and depth_cost >= 0, "
                f"got {self.temperature}, {self.slope} and {self.depth_cost}"
            )

    def confidence(self, probabilities: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, float64.

        Parameters
        ----------
        probabilities: of terms, any shape
        depths: of the same terms, broadcastable to that shape

        Examples
        --------
        >>> CalibrationCurve().confidence(np.array([0.25]), np.array([3])).round(6).tolist()
        [0.25]
        """
        score = self.slope * self.logit(probabilities) - self.depth_cost * depths + self.intercept
        return 1 / (1 + np.exp(-score))

    @staticmethod
    def logit(probabilities: np.ndarray) -> np.ndarray:
        """Return log-odds, finite for 0 and 1 too."""
        clipped = np.clip(probabilities, _EDGE, 1 - _EDGE)
        return np.log(clipped) - np.log1p(-clipped)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration curves of a model, and the data they were fitted on.

    Attributes
    ----------
    all_types: curve for whole ontologies, most of whose types cannot occur among the cells
    given: curve for labels that a user chose for the cells
    model_sha256: hash of the weights that the curves were fitted for
    fitted_on: names of the studies
    command: command that reproduces the file
    all_types_reliability, given_reliability: reliability of each curve on held-out studies: each
        study is scored with a curve fitted on the others; None for fewer than two studies
    """

    all_types: CalibrationCurve
    given: CalibrationCurve
    model_sha256: str = ""
    fitted_on: tuple[str, ...] = ()
    command: str = ""
    all_types_reliability: Reliability | None = None
    given_reliability: Reliability | None = None

    def curve(self, *, is_choice: bool) -> CalibrationCurve:
        """Return the curve for labels that a user chose, or for a whole ontology."""
        return self.given if is_choice else self.all_types

    def reliability(self, *, is_choice: bool) -> Reliability | None:
        """Return the reliability of that curve on held-out studies."""
        return self.given_reliability if is_choice else self.all_types_reliability

    @property
    def identifier(self) -> str:
        """Short hash of the curves, for uns; "uncalibrated" if both are the identity."""
        if self.all_types == self.given == CalibrationCurve():
            return "uncalibrated"
        curves = json.dumps([asdict(self.all_types), asdict(self.given)])
        return hashlib.sha256(curves.encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Return the content of calibration.json."""
        return json.dumps({"format_version": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Calibration":
        """Parse the output of `to_json`; `where` names the source in error messages.

        Raises
        ------
        ValueError
            If the text is not a calibration.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values.pop("format_version")
            if version != _FORMAT:
                raise ValueError(f"it has format {version}, this version reads {_FORMAT}")
            values["all_types"] = CalibrationCurve(**values["all_types"])
            values["given"] = CalibrationCurve(**values["given"])
            values["fitted_on"] = tuple(values["fitted_on"])
            for name in ("all_types_reliability", "given_reliability"):
                if values.get(name) is not None:
                    values[name] = Reliability.of(values[name])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{where} is not a calibration: {error}; make one with langcell annotate calibrate"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Read calibration.json.

        Raises
        ------
        OSError, ValueError
            If there is no such file or it is not a calibration.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not a calibration: not a UTF-8 text file; make one with langcell annotate "
                "calibrate"
            ) from error
        return cls.from_json(text, str(path))


UNCALIBRATED = Calibration(all_types=CalibrationCurve(), given=CalibrationCurve())


def model_calibration(text: str, model_sha256: str) -> Calibration:
    """Return the calibration of a model; warn and return `UNCALIBRATED` if it is for other weights.

    Parameters
    ----------
    text: content of its calibration.json; '' if it has none
    model_sha256: hash of its weights
    """
    if not text:
        return UNCALIBRATED
    calibration = Calibration.from_json(text, FILE)
    if calibration.model_sha256 != model_sha256:
        warnings.warn(
            f"{FILE} was fitted for other weights ({calibration.model_sha256[:12]} and not "
            f"{model_sha256[:12]}) and is ignored: confidence is not calibrated; make it again "
            "with langcell annotate calibrate",
            stacklevel=2,
        )
        return UNCALIBRATED
    return calibration
