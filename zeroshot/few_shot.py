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
from ontology.graph import Ontology
from zeroshot.agreement import read_obs_column
from zeroshot.annotate_options import AnnotateOptions
from zeroshot.backoff import TermTree, make_ladder
from zeroshot.calibration import UNCALIBRATED, Calibration, model_calibration
from zeroshot.calibration_fit import LabelledRungs, fit_regime
from zeroshot.candidates import CandidateSet, candidate_features
from zeroshot.cell_scorer import CellScorer, Progress
from zeroshot.donor_fit import donor_means, donors_held_out, fit_donor_head
from zeroshot.donor_split import check_donor_split, check_donors_of_labels, is_constant_within
from zeroshot.modalities import modality_of
from zeroshot.named_labels import NamedLabels
from zeroshot.shot_fit import KINDS as FITTED
from zeroshot.shot_fit import Kind, Shots, choose_kind, fit_head, held_out
from zeroshot.shot_head import DONOR, STATE, TARGETS, TYPE, ShotHead
from zeroshot.tuning_recipes import RECIPES

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

KINDS = (*FITTED, *RECIPES)  # heads that are fitted to the model, and those that tune it too
_LEAST_FOR_CALIBRATION = 50  # labelled cells; with fewer that of the model is more to be trusted
_LEAST_SLOPE = 0.2  # with less of it confidence does not depend on the probability


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """How to fit a head."""

    target: str = TYPE  # what labels say, one of `zeroshot.shot_head.TARGETS`
    kind: str = "auto"  # or one of `KINDS`
    shots: int | None = None  # cells of each label, drawn; all by default
    labels: tuple[str, ...] = ()  # further ones, that no cell has and the head shall know by text
    group_key: str | None = None  # column of obs that folds do not divide, such as the donor
    type_key: str | None = None  # of the cell types, each of which counts the same in a donor
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
        if self.target not in TARGETS:
            raise ValueError(f"target must be {' or '.join(TARGETS)}, got {self.target!r}")
        if self.target != TYPE and self.labels:
            raise ValueError(f"a {self.target} is learnt from cells alone: leave out labels")
        if self.target == STATE and self.kind in RECIPES and RECIPES[self.kind].reads_texts:
            cells_alone = [name for name, each in RECIPES.items() if not each.reads_texts]
            raise ValueError(
                f"a state is learnt from cells alone, and head {self.kind} reads texts: take linear, "
                f"{' or '.join(cells_alone)}"
            )
        if self.target != DONOR and self.type_key is not None:
            raise ValueError("type_key says how the cells of a donor count: --target donor")


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
    majority_accuracy: of always the most frequent label, on the same cells
    zero_shot_accuracy, zero_shot_macro_f1: the same without any labelled cells; of cell types alone
    is_calibrated: False where the model's own calibration stands in
    """

    head: ShotHead
    names: tuple[str, ...]
    as_text: tuple[str, ...]
    n_without: int
    held_out: str = ""
    accuracy: float = float("nan")
    macro_f1: float = float("nan")
    majority_accuracy: float = float("nan")
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
    label_key: column of obs with labels: names, synonyms or ids of the Cell Ontology, or any words;
        states of cells or donors where `options.target` says so. Empty values and those of
        `zeroshot.named_labels.NO_LABELS` are no labels
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
    is_type = options.target == TYPE
    named = NamedLabels.of(given, label_key, options.labels, ontology, are_types=is_type)
    if options.target == DONOR:
        _check_donors(named, groups, label_key, options)
    elif options.target == STATE:
        group_key = None if groups is None else options.group_key
        check_donor_split(source, named.codes, label_key=label_key, group_key=group_key)
    name = str(model) if isinstance(model, str | Path) else "in memory"
    if isinstance(model, str | Path):
        # What tunes a model needs torch, which a bag of genes is else read without.
        model = load_embedder(model, device=options.device, states=options.kind in RECIPES)
    if not model.sha256:
        raise ValueError(
            "the model was never saved, so that nothing tells it from another: save_pretrained it "
            "and fit the head on the saved one"
        )
    if options.target == DONOR:
        assert groups is not None, "was checked"
        found = _fit_donors(source, named, groups, model, options, progress)
        head = replace(found.head, model=name, model_sha256=model.sha256)
        return replace(found, head=head)
    rows = draw_shots(named.codes, named.candidates.keys, options.shots, seed=options.seed)
    cells = _embed(source, rows, model, options, progress)
    texts, label_features = _texts(named, cells, model, options)
    shots = Shots(
        labels=named.codes[rows],
        keys=named.candidates.keys,
        label_features=label_features,
        texts=texts,
        features=cells.features,
        tokens=_tokens(cells),
        groups=None if groups is None else groups[rows],
    )
    head, folds = _fit(shots, named.candidates, model, options, progress)
    fitted = FittedHead(
        head=replace(
            head,
            target=options.target,
            text_weight=head.text_weight if is_type else 0.0,
            model=name,
            model_sha256=model.sha256,
            calibration=model_calibration(model.calibration, model.sha256),
        ),
        names=named.candidates.names,
        as_text=named.as_text if is_type else (),
        n_without=int(np.sum(named.codes < 0)),
    )
    return _judge(fitted, shots, folds, TermTree.of(named.candidates, ontology), options)


Folds = Iterable[tuple[np.ndarray, np.ndarray]]  # rows of cells, and what others say of them


def _fit(
    shots: Shots,
    candidates: CandidateSet,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> tuple[ShotHead, Folds]:
    """Fit a head, and more of its kind to the cells that each of some folds leaves."""
    if options.kind not in RECIPES:
        kind = choose_kind(shots) if options.kind == "auto" else _kind(options.kind)
        return fit_head(shots, kind, model="", model_sha256=""), held_out(shots, kind)
    # With Lightning, which takes seconds to import.
    from langcell.model import LangCell
    from zeroshot.finetune import tune_head
    from zeroshot.tuned_model import LabelTexts

    if not isinstance(model, LangCell):
        raise ValueError(
            f"head {options.kind} tunes the model, and a FrozenBag cannot learn: give the model by "
            "its name, or as a LangCell"
        )
    labels = LabelTexts.of(candidates, shots.label_features, model)
    tuned = tune_head(
        shots,
        options.kind,
        model=model,
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


def _check_donors(
    named: NamedLabels, groups: np.ndarray | None, label_key: str, options: FewShotOptions
) -> None:
    """Refuse a label of donors that is none, or that nothing tells from the donors."""
    if groups is None:
        raise ValueError("a donor's label needs a column of two donors or more: give --group-key")
    if options.kind not in ("auto", "linear"):
        raise ValueError(f"donors are told apart by a linear head, got {options.kind!r}")
    is_labelled = named.codes >= 0
    labels, donors = named.codes[is_labelled], groups[is_labelled]
    if not is_constant_within(labels, donors):
        raise ValueError(
            f"cells of one donor (obs[{options.group_key!r}]) differ in obs[{label_key!r}]: that is "
            "a state of cells, --target state"
        )
    check_donors_of_labels(labels, donors, label_key=label_key, donor_key=str(options.group_key))


def _fit_donors(
    source: "AnnData | str | Path",
    named: NamedLabels,
    groups: np.ndarray,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> FittedHead:
    """Fit a head to the means of donors, and judge it on donors that it did not see."""
    keys = named.candidates.keys
    names, first = np.unique(np.where(named.codes < 0, "", groups).astype(str), return_index=True)
    codes = np.where(names == "", -1, named.codes[first])
    drawn = names[draw_shots(codes, keys, options.shots, seed=options.seed)]
    rows = np.flatnonzero((named.codes >= 0) & np.isin(groups.astype(str), drawn))
    types = None if options.type_key is None else read_obs_column(source, options.type_key)[rows]
    donors = donor_means(_embed(source, rows, model, options, progress), groups[rows], types)
    labels = codes[np.searchsorted(names, donors.names)]
    fitted = FittedHead(
        head=fit_donor_head(donors, labels, keys, by_types=types is not None),
        names=named.candidates.names,
        as_text=(),
        n_without=int(np.sum(named.codes < 0)),
    )
    if np.bincount(labels).min() < 2:
        return fitted
    called = np.empty_like(labels)
    for some, log_probabilities in donors_held_out(donors, labels, keys):
        called[some] = log_probabilities.argmax(axis=1)
    return replace(
        fitted,
        held_out=f"{len(donors)} donors in turns",
        accuracy=float(np.mean(called == labels)),
        macro_f1=metrics.macro_f1(labels, called, min_cells=1),
        majority_accuracy=metrics.majority_accuracy(labels),
    )


def _texts(
    named: NamedLabels, cells: CellEmbeddings, model: Embedder, options: FewShotOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the texts of the labels say of the cells, and their features; of states nothing.

    The model was trained on descriptions of cell types, and calls control cells stimulated by words.
    """
    candidates = named.candidates
    if options.target != TYPE:
        shape = (len(cells.features), len(candidates))
        return np.zeros(shape, np.float32), np.zeros((len(candidates), cells.features.shape[1]))
    scorer = CellScorer(model, candidates, AnnotateOptions(calibration=UNCALIBRATED))
    return scorer.score_all(cells)[1], candidate_features(candidates, model)


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
    fitted: FittedHead, shots: Shots, folds: Folds, tree: TermTree, options: FewShotOptions
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
    by = f"values of {options.group_key} held out"
    if shots.groups is None:
        by = "cells held out"
        by += "" if options.target == TYPE else "; those of one donor may stand on both sides"
    measured = replace(
        fitted,
        held_out=f"{judged.sum():,} cells in turns ({by})",
        accuracy=float(np.mean(called == truth)),
        macro_f1=metrics.macro_f1(truth, called, min_cells=1),
        majority_accuracy=metrics.majority_accuracy(truth),
    )
    if options.target == TYPE:
        measured = replace(
            measured,
            zero_shot_accuracy=float(np.mean(texts == truth)),
            zero_shot_macro_f1=metrics.macro_f1(truth, texts, min_cells=1),
        )
    calibration = _calibrate(shots, log_probabilities, judged, tree, fitted.head.model_sha256)
    if calibration is None:
        return measured
    head = replace(measured.head, calibration=calibration)
    return replace(measured, head=head, is_calibrated=True)


def _calibrate(
    shots: Shots,
    log_probabilities: np.ndarray,
    judged: np.ndarray,
    tree: TermTree,
    model_sha256: str,
) -> Calibration | None:
    """Learn what the head's probabilities are worth from cells that it did not see."""
    if judged.sum() < _LEAST_FOR_CALIBRATION:
        return None
    logs = log_probabilities[judged]
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
        model_sha256=model_sha256,
        fitted_on=("cells held out from the head",),
    )
