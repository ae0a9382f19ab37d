"""How probabilities become confidences, as it is stored beside a model."""

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
_EDGE = 1e-6  # probabilities nearer to 0 or 1 than this count as so near


@dataclass(frozen=True, kw_only=True)
class CalibrationCurve:
    """Calibration for one kind of candidates; the default leaves probabilities as they are.

    confidence = 1 / (1 + exp(-(slope * logit(probability) + intercept - depth_cost * depth)))

    where the probability is that of a term after the log-probabilities of candidates were divided
    by the temperature (Guo et al. 2017; Platt 1999). Neither slope nor depth_cost is negative, so a
    parent, which is more probable and less deep, is never less sure than its child.
    """

    temperature: float = 1.0
    slope: float = 1.0
    depth_cost: float = 0.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.slope >= 0 and self.depth_cost >= 0):
            raise ValueError(
                "a calibration needs a temperature above 0 and slope and depth_cost of at least 0, "
                f"got {self.temperature}, {self.slope} and {self.depth_cost}"
            )

    def confidence(self, probabilities: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, float64.

        Parameters
        ----------
        probabilities: of terms, any shape
        depths: of the same terms, in a shape that fits

        Examples
        --------
        >>> CalibrationCurve().confidence(np.array([0.25]), np.array([3])).round(6).tolist()
        [0.25]
        """
        score = self.slope * self.logit(probabilities) - self.depth_cost * depths + self.intercept
        return 1 / (1 + np.exp(-score))

    @staticmethod
    def logit(probabilities: np.ndarray) -> np.ndarray:
        """Return log odds, those of 0 and 1 finite."""
        clipped = np.clip(probabilities, _EDGE, 1 - _EDGE)
        return np.log(clipped) - np.log1p(-clipped)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Both regimes of a model, and what they were learnt from.

    Attributes
    ----------
    all_types: for whole ontologies, most of which the cells cannot be
    given: for labels that someone chose for the cells
    model_sha256: of the weights that it was learnt for
    fitted_on: names of the studies
    command: what makes the file again
    all_types_reliability, given_reliability: what the confidence of either regime was worth on each
        study when the others alone had been learnt from; None for fewer than two studies
    """

    all_types: CalibrationCurve
    given: CalibrationCurve
    model_sha256: str = ""
    fitted_on: tuple[str, ...] = ()
    command: str = ""
    all_types_reliability: Reliability | None = None
    given_reliability: Reliability | None = None

    def curve(self, *, is_choice: bool) -> CalibrationCurve:
        """Return what fits candidates: chosen ones, or a whole ontology."""
        return self.given if is_choice else self.all_types

    def reliability(self, *, is_choice: bool) -> Reliability | None:
        """Return what that regime was worth."""
        return self.given_reliability if is_choice else self.all_types_reliability

    @property
    def identifier(self) -> str:
        """Short hash of what it does, for notes; "uncalibrated" where it does nothing."""
        if self.all_types == self.given == CalibrationCurve():
            return "uncalibrated"
        curves = json.dumps([asdict(self.all_types), asdict(self.given)])
        return hashlib.sha256(curves.encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps({"format_version": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Calibration":
        """Read what `to_json` wrote; `where` names it in errors.

        Raises
        ------
        ValueError
            If it is no calibration.
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
                f"{where} is not a calibration: {error}; make one with langcell zeroshot calibrate"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Read a file.

        Raises
        ------
        OSError, ValueError
            If there is no such file or it is no calibration.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is no calibration; wanted the .json of langcell zeroshot calibrate"
            ) from error
        return cls.from_json(text, str(path))


UNCALIBRATED = Calibration(all_types=CalibrationCurve(), given=CalibrationCurve())


def model_calibration(text: str, model_sha256: str) -> Calibration:
    """Return what a model brings along, or `UNCALIBRATED` with a warning where it does not fit.

    Parameters
    ----------
    text: of its calibration.json; '' where it has none
    model_sha256: of its weights
    """
    if not text:
        return UNCALIBRATED
    calibration = Calibration.from_json(text, FILE)
    if calibration.model_sha256 != model_sha256:
        warnings.warn(
            f"{FILE} was learnt for other weights ({calibration.model_sha256[:12]} and not "
            f"{model_sha256[:12]}) and is left out: confidence is not calibrated; make it again "
            "with langcell zeroshot calibrate",
            stacklevel=2,
        )
        return UNCALIBRATED
    return calibration
