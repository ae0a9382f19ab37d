"""Fit a calibration on labelled studies."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from langcell.counts.obs_columns import read_obs_column
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import CellEmbeddings, embed_cells
from langcell.model.langcell import LangCell
from langcell.runtime.keywords import options_from, public
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.backoff import TermsByDepth, terms_by_depth
from zeroshot.confidence.calibration import UNCALIBRATED, Calibration, CalibrationCurve
from zeroshot.confidence.reliability import Outcomes, Reliability, measure_reliability
from zeroshot.labels.agreement import resolve_truth
from zeroshot.labels.candidates import all_candidates, own_candidates

# Chosen on the validation studies. Above 1, because a model trained on its own labels only is
# overconfident on cells of types that it has never seen.
TEMPERATURE_ALL, TEMPERATURE_GIVEN = 1.25, 1.0
_FEW_CELLS, _FEW_STUDIES = 500, 3  # with fewer a calibration is shaky
if TYPE_CHECKING:
    from anndata import AnnData

_MIN_PROBABILITY = 0.01  # less probable terms are never called and would distort the curve
_SHRINKAGE = 1e-4  # keeps slopes finite if every call is right


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledTerms:
    """The terms of each depth of the cells of one study, compared with their true labels.

    Attributes
    ----------
    study: name of the study; all studies have the same total weight
    probabilities: probability of the term of each depth, float64, shape (n_cells, n_depths)
    is_right: True if the term is the true label or an ancestor of it, same shape
    """

    study: str
    probabilities: np.ndarray
    is_right: np.ndarray


def label_terms(
    by_depth: TermsByDepth, truth_ids: np.ndarray, ontology: Ontology, *, study: str
) -> LabelledTerms:
    """Compare the terms of each depth with the true labels.

    Parameters
    ----------
    by_depth: terms of each depth of the cells
    truth_ids: true Cell Ontology id of each cell, shape (n_cells,)
    ontology: ontology that has all true ids
    study: name of the study
    """
    truth = np.array([ontology.index[each] for each in truth_ids], dtype=np.int64)
    rows = np.array([ontology.index.get(each, -1) for each in by_depth.tree.ids], dtype=np.int64)
    terms = np.where(by_depth.terms >= 0, rows[by_depth.terms], -1)  # (n_cells, n_depths)
    cells, depths = np.nonzero(terms >= 0)
    is_right = np.zeros(terms.shape, dtype=bool)
    is_ancestor = ontology.closure[truth[cells], terms[cells, depths]]
    is_right[cells, depths] = np.asarray(is_ancestor).ravel()
    return LabelledTerms(study=study, probabilities=by_depth.probabilities, is_right=is_right)


def score_terms_by_depth(scorer: CellScorer, features: np.ndarray) -> TermsByDepth:
    """Return the terms of each depth, at the temperature for the scorer's candidates.

    Parameters
    ----------
    scorer: scorer without reranking
    features: cell features, float32, shape (n_cells, embedding_dim)
    """
    scores, everything = scorer.score_all(CellEmbeddings(start=0, features=features))
    temperature = TEMPERATURE_GIVEN if scorer.candidates.is_choice else TEMPERATURE_ALL
    return terms_by_depth(everything, scorer.tree, scores.best, temperature=temperature)


def fit_curve(parts: Sequence[LabelledTerms], *, temperature: float) -> CalibrationCurve:
    """Fit the curve from probability and depth to the fraction of terms that are right.

    Every study has the same weight, and within it every cell.

    Parameters
    ----------
    parts: labelled terms of one or more studies
    temperature: temperature of the probabilities
    """
    n_cells: dict[str, int] = {}
    for part in parts:
        n_cells[part.study] = n_cells.get(part.study, 0) + len(part.is_right)
    inputs, right, weights = [], [], []
    for part in parts:
        cells, depths = np.nonzero(part.probabilities >= _MIN_PROBABILITY)
        inputs.append(np.column_stack([part.probabilities[cells, depths], depths]))
        right.append(part.is_right[cells, depths])
        weights.append(np.full(len(cells), 1 / (n_cells[part.study] * len(n_cells))))
    slope, depth_cost, intercept = _minimise(
        np.concatenate(inputs), np.concatenate(right).astype(float), np.concatenate(weights)
    )
    return CalibrationCurve(
        temperature=temperature, slope=slope, depth_cost=depth_cost, intercept=intercept
    )


def _minimise(inputs: np.ndarray, right: np.ndarray, weights: np.ndarray) -> list[float]:
    """Return slope, depth cost and intercept by maximum likelihood, rounded to six decimals."""
    logit = CalibrationCurve.logit(inputs[:, 0])
    columns = np.column_stack([logit, -inputs[:, 1], np.ones(len(inputs))])

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        score = columns @ values
        loss = float(weights @ (np.logaddexp(0, score) - right * score))
        gradient = (weights * (1 / (1 + np.exp(-score)) - right)) @ columns
        return loss + _SHRINKAGE * float(values @ values), gradient + 2 * _SHRINKAGE * values

    bounds = [(0, None), (0, None), (None, None)]
    found = minimize(loss_and_gradient, [1.0, 0.1, 0.0], jac=True, method="L-BFGS-B", bounds=bounds)
    return [round(float(value), 6) for value in found.x]


ConfidenceFunction = Callable[[LabelledTerms], np.ndarray]  # to the confidence of every term
Learner = Callable[[Sequence[LabelledTerms]], ConfidenceFunction]


def confidence_function(curve: CalibrationCurve) -> ConfidenceFunction:
    """Return a function to the confidence of each term by a curve, 0 if it has no probability."""

    def confidence(part: LabelledTerms) -> np.ndarray:
        found = curve.confidence(part.probabilities, np.arange(part.probabilities.shape[1]))
        return np.where(part.probabilities > 0, found, 0)

    return confidence


def curve_learner(temperature: float) -> Learner:
    """Return a function that fits a curve with `fit_curve`."""
    return lambda parts: confidence_function(fit_curve(parts, temperature=temperature))


def leave_one_out(parts: Sequence[LabelledTerms], learn: Learner) -> list[np.ndarray]:
    """Return the confidence of every term of each part, fitted on the other studies."""
    studies = sorted({part.study for part in parts})
    fitted = {study: learn([part for part in parts if part.study != study]) for study in studies}
    return [fitted[part.study](part) for part in parts]


def measure_curve(
    parts: Sequence[LabelledTerms], *, temperature: float, measured_on: str
) -> Reliability | None:
    """Measure the reliability of a curve on each study, fitted on the others; None for one study.

    Parameters
    ----------
    parts: labelled terms of all studies
    temperature: temperature of the probabilities
    measured_on: description of the cells, candidates and labels
    """
    studies: dict[str, list[Outcomes]] = {part.study: [] for part in parts}
    if len(studies) < 2:
        return None
    by_part = leave_one_out(parts, curve_learner(temperature))
    for part, confidence in zip(parts, by_part, strict=True):
        studies[part.study].append((confidence, part.is_right))
    return measure_reliability(studies, measured_on=measured_on)


def fit_calibration(
    all_types: Sequence[LabelledTerms],
    given: Sequence[LabelledTerms],
    *,
    model_sha256: str,
    command: str = "",
    remark: str = "",
) -> Calibration:
    """Fit both calibration curves on all studies, and measure them on each held-out study.

    Parameters
    ----------
    all_types: terms of each depth with all cell types as candidates
    given: terms of each depth with the labels of each study as candidates
    model_sha256: checksum of the weights that embedded the cells
    command: command that makes the calibration again
    remark: remark on the labels, added to the reliability
    """
    judged = "each study by what was learnt on the others" + (f"; {remark}" if remark else "")
    return Calibration(
        all_types=fit_curve(all_types, temperature=TEMPERATURE_ALL),
        given=fit_curve(given, temperature=TEMPERATURE_GIVEN),
        model_sha256=model_sha256,
        fitted_on=tuple(sorted({part.study for part in all_types})),
        command=command,
        all_types_reliability=measure_curve(
            all_types,
            temperature=TEMPERATURE_ALL,
            measured_on=f"all cell types as candidates; {judged}",
        ),
        given_reliability=measure_curve(
            given,
            temperature=TEMPERATURE_GIVEN,
            measured_on=f"the types of each study as candidates; {judged}",
        ),
    )


@public
def calibrate(
    sources: "AnnData | str | Path | Iterable[AnnData | str | Path]",
    *,
    truth: str,
    study_key: str | None = None,
    model: LangCell | str | Path = "mini-fast",
    layer: str | None = None,
    allow_normalized: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    options: AnnotateOptions | None = None,
    command: str = "",
) -> Calibration:
    """Fit a calibration on labelled cells, for `annotate(calibration=...)`.

    Parameters
    ----------
    sources
        Labelled file or AnnData, or several.
    truth
        obs column with cell types: names, synonyms or CL ids; others are left out.
    study_key
        obs column of studies; by default each file is a study.
    model
        A model, or the name, folder or hub id of one.
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    batch_size
        Cells encoded at once; chosen for the device by default.
    options
        An `AnnotateOptions` in place of the keywords from `layer` to `batch_size`.
    command
        Command that makes the calibration again, for the record.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> mine = lc.calibrate("labelled.h5ad", truth="cell_type")  # doctest: +SKIP
    """
    options = replace(
        options_from(AnnotateOptions, options, {**locals(), "command": ""}),
        rerank=0,
        calibration=UNCALIBRATED,
        command="",
    )
    sources = [sources] if isinstance(sources, str | Path) or hasattr(sources, "obs") else sources
    if not isinstance(model, LangCell):
        model = LangCell.from_pretrained(model, device=options.device)
    ontology = Ontology.bundled()
    everything = CellScorer(model, all_candidates(ontology), options)
    all_types: list[LabelledTerms] = []
    given: list[LabelledTerms] = []
    for number, source in enumerate(sources, 1):
        term_ids = resolve_truth(read_obs_column(source, truth), ontology).term_ids
        name = Path(source).stem if isinstance(source, str | Path) else f"AnnData {number}"
        studies = np.full(len(term_ids), name, dtype=object)
        if study_key is not None:
            studies = read_obs_column(source, study_key)
        own = _own_scorers(model, term_ids, studies, ontology, options)
        with open_counts(
            source, layer=options.layer, allow_normalized=options.allow_normalized
        ) as matrix:
            for cells in embed_cells(model, matrix, batch_size=options.batch_size):
                places = np.arange(cells.start, cells.start + len(cells.features))
                for study, scorer in own.items():
                    rows = (studies[places] == study) & (term_ids[places] != "")
                    if not rows.any():
                        continue
                    for parts, each in ((all_types, everything), (given, scorer)):
                        by_depth = score_terms_by_depth(each, cells.features[rows])
                        true = term_ids[places[rows]]
                        parts.append(label_terms(by_depth, true, ontology, study=str(study)))
    if not all_types:
        raise ValueError(f"no study has two cell types in obs[{truth!r}] to calibrate on")
    n_cells, n_studies = (
        sum(len(part.is_right) for part in all_types),
        len({p.study for p in all_types}),
    )
    if n_cells < _FEW_CELLS or n_studies < _FEW_STUDIES:
        warnings.warn(
            f"{n_cells} labelled cells of {n_studies} studies are too few to calibrate for other "
            f"studies: pass {_FEW_CELLS} or more cells, of {_FEW_STUDIES} or more studies",
            UserWarning,
            stacklevel=3,
        )
    return fit_calibration(all_types, given, model_sha256=model.sha256, command=command)


def _own_scorers(
    model: LangCell,
    term_ids: np.ndarray,
    studies: np.ndarray,
    ontology: Ontology,
    options: AnnotateOptions,
) -> dict[str, CellScorer]:
    """Return a scorer over the types of each study, for studies with two types or more."""
    own = {}
    for study in sorted(set(studies)):
        labels = sorted(set(term_ids[studies == study]) - {""})
        if len(labels) >= 2:
            own[study] = CellScorer(model, own_candidates(labels, ontology), options)
    return own
