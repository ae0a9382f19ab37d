"""From a file of labelled cells to a head: `zeroshot.fit_few_shot`."""

import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell import metrics
from langcell.counts import open_counts
from langcell.embed import CellEmbeddings, embed_cells
from langcell.embedder import Embedder, load_embedder
from langcell.tokenizer import TokenBlock
from ontology.candidates import NEVER_CALLED
from ontology.graph import Ontology
from ontology.labels import LabelResolver
from zeroshot.agreement import read_obs_column
from zeroshot.annotate_options import AnnotateOptions
from zeroshot.backoff import make_ladder
from zeroshot.calibration import UNCALIBRATED, Calibration, model_calibration
from zeroshot.calibration_fit import LabelledRungs, fit_regime
from zeroshot.candidates import FREE_TEXT, CandidateSet, candidate_features, own_candidates
from zeroshot.cell_scorer import CellScorer, Progress
from zeroshot.modalities import modality_of
from zeroshot.shot_fit import KINDS as FITTED
from zeroshot.shot_fit import Kind, Shots, choose_kind, fit_head, held_out
from zeroshot.shot_head import ShotHead
from zeroshot.tuning_recipes import RECIPES

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

KINDS = (*FITTED, *RECIPES)  # heads that are fitted to the model, and those that tune it too
NO_LABELS = ("", "unknown", "unassigned", "unlabeled", "unlabelled", "nan", "na", "n/a", "none")
_LEAST_FOR_CALIBRATION = 50  # labelled cells; with fewer that of the model is more to be trusted
_LEAST_SLOPE = 0.2  # with less of it confidence does not depend on the probability


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """How to fit a head."""

    kind: str = "auto"  # or one of `KINDS`
    shots: int | None = None  # cells of each label, drawn; all by default
    labels: tuple[str, ...] = ()  # further ones, that no cell has and the head shall know by text
    group_key: str | None = None  # column of obs that folds do not divide, such as the donor
    seed: int = 0  # of the drawn cells, and of tuning
    layer: str | None = None  # of the counts; found without
    allow_normalized: bool = False
    device: str = "cpu"  # of a model that is given by name
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *KINDS):
            raise ValueError(f"head must be one of auto, {', '.join(KINDS)}, got {self.kind!r}")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots must be at least 1, got {self.shots}")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """A head, and how it did on cells that it did not see.

    Attributes
    ----------
    head: to be written or used
    names: of its labels, in their order
    as_text: labels of the file that name no cell type and are read as words
    n_without: cells of the file without a label
    held_out: what `accuracy` and `macro_f1` were measured on; '' where there were too few cells
    accuracy, macro_f1: of the best label
    zero_shot_accuracy, zero_shot_macro_f1: the same without any labelled cells
    is_calibrated: False where the model's own calibration stands in
    """

    head: ShotHead
    names: tuple[str, ...]
    as_text: tuple[str, ...]
    n_without: int
    held_out: str = ""
    accuracy: float = float("nan")
    macro_f1: float = float("nan")
    zero_shot_accuracy: float = float("nan")
    zero_shot_macro_f1: float = float("nan")
    is_calibrated: bool = False


def fit_few_shot(
    source: "AnnData | MuData | str | Path",
    label_key: str,
    *,
    model: "Embedder | str | Path" = "mini-fast",
    modality: str | None = None,
    options: FewShotOptions | None = None,
    progress: Progress | None = None,
) -> FittedHead:
    """Fit a head to the labelled cells of a file, or of an AnnData.

    Memory grows with the labelled cells, not with the file.

    Parameters
    ----------
    source: .h5ad, .zarr or AnnData with counts
    label_key: column of obs with labels: names, synonyms or ids of the Cell Ontology, or any words.
        Empty values and those of `NO_LABELS` are no labels
    model: the model, or its name, folder or hub id
    modality: of a MuData, the one with counts of RNA
    options: how to fit
    progress: called with the number of cells read and of all cells; then, by a head that tunes the
        model, with the number learnt from, each many times, and how many that may become

    Raises
    ------
    ValueError, OSError
        With one line that says what is wrong with the input, the labels or the model.
    """
    options, ontology = options or FewShotOptions(), Ontology.bundled()
    source = modality_of(source, modality)
    given = read_obs_column(source, label_key)
    groups = _groups(source, options.group_key)
    named = _NamedLabels.of(given, label_key, options.labels, ontology)
    rows = draw_shots(named.codes, named.candidates.keys, options.shots, seed=options.seed)
    name = str(model) if isinstance(model, str | Path) else "in memory"
    if isinstance(model, str | Path):
        # What tunes a model needs torch, which a bag of genes is else read without.
        model = load_embedder(model, device=options.device, states=options.kind in RECIPES)
    if not model.sha256:
        raise ValueError(
            "the model was never saved, so that nothing tells it from another: save_pretrained it "
            "and fit the head on the saved one"
        )
    cells = _embed(source, rows, model, options, progress)
    scorer = CellScorer(model, named.candidates, AnnotateOptions(calibration=UNCALIBRATED))
    shots = Shots(
        labels=named.codes[rows],
        keys=named.candidates.keys,
        label_features=candidate_features(named.candidates, model),
        texts=scorer.score_all(cells)[1],
        features=cells.features,
        tokens=_tokens(cells),
        groups=None if groups is None else groups[rows],
    )
    head, folds = _fit(shots, scorer, options, progress)
    fitted = FittedHead(
        head=replace(
            head,
            model=name,
            model_sha256=model.sha256,
            calibration=model_calibration(model.calibration, model.sha256),
        ),
        names=named.candidates.names,
        as_text=named.as_text,
        n_without=int(np.sum(named.codes < 0)),
    )
    return _judge(fitted, shots, folds, scorer, options)


Folds = Iterable[tuple[np.ndarray, np.ndarray]]  # rows of cells, and what others say of them


def _fit(
    shots: Shots, scorer: CellScorer, options: FewShotOptions, progress: Progress | None
) -> tuple[ShotHead, Folds]:
    """Fit a head, and more of its kind to the cells that each of some folds leaves."""
    if options.kind not in RECIPES:
        kind = choose_kind(shots) if options.kind == "auto" else _kind(options.kind)
        return fit_head(shots, kind, model="", model_sha256=""), held_out(shots, kind)
    # With Lightning, which takes seconds to import.
    from langcell.model import LangCell
    from zeroshot.finetune import tune_head
    from zeroshot.tuned_model import LabelTexts

    if not isinstance(scorer.model, LangCell):
        raise ValueError(
            f"head {options.kind} tunes the model, and a FrozenBag cannot learn: give the model by "
            "its name, or as a LangCell"
        )
    labels = LabelTexts.of(scorer.candidates, shots.label_features, scorer.model)
    tuned = tune_head(
        shots,
        options.kind,
        model=scorer.model,
        labels=labels,
        seed=options.seed,
        progress=progress,
    )
    return tuned.head, tuned.held_out


def draw_shots(
    codes: np.ndarray, keys: Sequence[str], shots: int | None, *, seed: int
) -> np.ndarray:
    """Draw cells of each label.

    Parameters
    ----------
    codes: label of each cell, a row of `keys`, -1 for none, shape (n_cells,)
    keys: of the labels
    shots: of each label at most; None for all
    seed: of the draw; which cells of a label are drawn does not depend on the other labels

    Returns
    -------
    Rows, ascending
    """
    drawn = []
    for code in np.unique(codes[codes >= 0]):
        members = np.flatnonzero(codes == code)
        if shots is not None and len(members) > shots:
            rng = np.random.default_rng([seed, zlib.crc32(keys[code].encode())])
            members = rng.permutation(members)[:shots]
        drawn.append(members)
    return np.sort(np.concatenate(drawn))


def _groups(source: "AnnData | str | Path", key: str | None) -> np.ndarray | None:
    """Return a column of groups, None where it tells none apart."""
    if key is None:
        return None
    groups = read_obs_column(source, key)
    if len(set(groups)) > 1:
        return groups
    warnings.warn(f"obs[{key!r}] has one value alone: cells are held out instead", stacklevel=3)
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class _NamedLabels:
    """Labels of a column as candidates, and the candidate of each cell, -1 for none."""

    candidates: CandidateSet
    codes: np.ndarray
    as_text: tuple[str, ...]

    @classmethod
    def of(
        cls, given: np.ndarray, key: str, further: Sequence[str], ontology: Ontology
    ) -> "_NamedLabels":
        distinct, place = np.unique(given.astype(str), return_inverse=True)
        is_label = np.array([each.strip().lower() not in NO_LABELS for each in distinct])
        if not is_label.any():
            raise ValueError(f"no cell has a label in obs[{key!r}]: all are empty or unknown")
        keys, as_text = [], []
        found = LabelResolver(ontology).resolve([each.strip() for each in distinct])
        for label, resolved in zip(distinct, found, strict=True):
            if resolved.term_id is not None and resolved.term_id not in NEVER_CALLED:
                keys.append(str(resolved.term_id))
            else:
                keys.append(f"{FREE_TEXT} {label.strip()}")
                as_text.append(str(label))
        known = [each for each, is_one in zip(keys, is_label, strict=True) if is_one]
        candidates = own_candidates([*known, *further], ontology)
        row = {each: number for number, each in enumerate(candidates.keys)}
        codes = np.array([row.get(each, -1) for each in keys])
        codes[~is_label] = -1
        return cls(
            candidates=candidates,
            codes=codes[place],
            as_text=tuple(each for each in as_text if each.strip().lower() not in NO_LABELS),
        )


def _kind(name: str) -> Kind:
    return next(each for each in FITTED if each == name)


def _embed(
    source: "AnnData | str | Path",
    rows: np.ndarray,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> CellEmbeddings:
    """Embed some cells of a source, block by block."""
    features, cells = [], []
    with open_counts(
        source, layer=options.layer, allow_normalized=options.allow_normalized
    ) as matrix:
        for block in embed_cells(model, matrix, batch_size=options.batch_size):
            assert block.tokens is not None, "cells of a file have them"
            stop = block.start + len(block.features)
            inside = rows[np.searchsorted(rows, block.start) : np.searchsorted(rows, stop)]
            features.append(block.features[inside - block.start])
            cells += [block.tokens.cell(row - block.start).copy() for row in inside]
            if progress is not None:
                progress(stop, matrix.n_cells)
    offsets = np.append(0, np.cumsum([len(cell) for cell in cells]))
    tokens = TokenBlock(start=0, tokens=np.concatenate(cells), offsets=offsets)
    return CellEmbeddings(start=0, features=np.concatenate(features), tokens=tokens)


def _tokens(cells: CellEmbeddings) -> TokenBlock:
    assert cells.tokens is not None
    return cells.tokens


def _judge(
    fitted: FittedHead, shots: Shots, folds: Folds, scorer: CellScorer, options: FewShotOptions
) -> FittedHead:
    """Measure a head on cells held out, and calibrate it on them where they are enough."""
    log_probabilities = np.zeros_like(shots.texts)
    judged = np.zeros(len(shots), dtype=bool)
    for rows, found in folds:
        log_probabilities[rows], judged[rows] = found, True
    if not judged.any():
        return fitted
    truth, texts = shots.labels[judged], shots.texts[judged].argmax(axis=1)
    called = log_probabilities[judged].argmax(axis=1)
    by = f"values of {options.group_key}" if shots.groups is not None else "cells"
    measured = replace(
        fitted,
        held_out=f"{judged.sum():,} cells in turns ({by} held out)",
        accuracy=float(np.mean(called == truth)),
        macro_f1=metrics.macro_f1(truth, called, min_cells=1),
        zero_shot_accuracy=float(np.mean(texts == truth)),
        zero_shot_macro_f1=metrics.macro_f1(truth, texts, min_cells=1),
    )
    calibration = _calibrate(shots, log_probabilities, judged, scorer)
    if calibration is None:
        return measured
    head = replace(measured.head, calibration=calibration)
    return replace(measured, head=head, is_calibrated=True)


def _calibrate(
    shots: Shots, log_probabilities: np.ndarray, judged: np.ndarray, scorer: CellScorer
) -> Calibration | None:
    """Learn what the head's probabilities are worth from cells that it did not see."""
    if judged.sum() < _LEAST_FOR_CALIBRATION:
        return None
    logs, tree = log_probabilities[judged], scorer.tree
    ladder = make_ladder(logs, tree, logs.argmax(axis=1), temperature=1.0)
    # What is true of a label, words included: the terms at or above it in the tree.
    is_true = tree.above[shots.labels[judged]].toarray() > 0  # (n_cells, n_terms)
    is_right = np.take_along_axis(is_true, np.maximum(ladder.terms, 0), axis=1)
    part = LabelledRungs(
        study="labelled cells",
        probabilities=ladder.probabilities,
        is_right=is_right & (ladder.terms >= 0),
    )
    regime = fit_regime([part], temperature=1.0)
    if regime.slope < _LEAST_SLOPE:
        return None
    return Calibration(
        all_types=regime,
        given=regime,
        model_sha256=scorer.model.sha256,
        fitted_on=("cells held out from the head",),
    )
