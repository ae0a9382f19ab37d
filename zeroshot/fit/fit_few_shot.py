"""Fit a few-shot head to labelled cells: `langcell.fit_few_shot`."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.modality import modality_of
from langcell.counts.obs_columns import read_obs_column
from langcell.model.embed_cells import CellEmbeddings
from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.keywords import options_from, public
from langcell.runtime.parameter_names import option
from langcell.tokens.tokenizer import TokenBlock
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer, Progress
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED, model_calibration
from zeroshot.confidence.term_tree import TermTree
from zeroshot.fit.donor_split import check_donor_split
from zeroshot.fit.fit_donors import check_donors, fit_donors
from zeroshot.fit.fit_head import KINDS as FITTED
from zeroshot.fit.fit_head import Kind, LabelledCells, choose_kind, fit_head, held_out
from zeroshot.fit.fitted_head import FittedHead, Folds, evaluate_head
from zeroshot.fit.labelled_cells import read_cells, sample_labelled
from zeroshot.fit.options import FewShotOptions
from zeroshot.fit.tuning_recipes import RECIPES
from zeroshot.heads.few_shot_head import DONOR, STATE, TYPE, FewShotHead
from zeroshot.labels.candidates import CandidateSet, candidate_features, label_list
from zeroshot.labels.label_column import LabelColumn

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@public
def fit_few_shot(
    adata: "AnnData | MuData | str | Path",
    label_key: str,
    *,
    model: "Embedder | str | Path" = "mini-fast",
    kind: str = "auto",
    shots: int | None = None,
    labels: str | Sequence[str] = (),
    group_key: str | None = None,
    target: str = TYPE,
    type_key: str | None = None,
    seed: int = 0,
    layer: str | None = None,
    allow_normalized: bool = False,
    modality: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    options: FewShotOptions | None = None,
    progress: Progress | None = None,
) -> FittedHead:
    """Fit a few-shot head to labelled cells; `annotate(head=...)` then predicts its labels.

    Memory grows with the labelled cells, or with the donors, not with the file.

    Parameters
    ----------
    adata
        AnnData or MuData with raw counts, or path of an .h5ad, .zarr, 10x .h5 or 10x folder.
    label_key
        obs column of labels: names, synonyms or ids of the Cell Ontology, or any words; states of
        cells or donors if `target` says so. Empty values and "unknown" are no labels.
    model
        A model, or the name, folder or hub id of one.
    kind
        "auto", "linear", "hierarchical", "prototype", or one that tunes the model too: "lora",
        "full", "langcell", "langcell-ce", "langcell-ce-frozen".
    shots
        Cells of each label to draw; all by default.
    labels
        Further labels that no cell has, which the head knows by their text.
    group_key
        obs column, such as the donor, whose groups are held out whole.
    target
        What the labels are: "type", "state" or "donor".
    type_key
        For donors: obs column of cell types, each of which weighs the same.
    seed
        Of the drawn cells, and of tuning.
    layer
        Layer of the raw counts; found in X, raw.X or layers["counts"] by default.
    allow_normalized
        Accept log1p, CPM or TPM values in place of counts.
    device
        "cpu", "cuda", "cuda:1" or "mps"; "auto" takes a CUDA GPU if there is one.
    modality
        Modality of a MuData with the counts of RNA.
    batch_size
        Cells encoded at once; chosen for the device by default.
    options
        A `FewShotOptions` in place of its single keywords.
    progress
        Called with the number of cells read and of all cells; then, if the model is tuned, with the
        number of cells trained on and how many that may become.

    Returns
    -------
    FittedHead
        The head, with its accuracy on held-out cells.

    Raises
    ------
    ValueError, OSError
        If the input, a name or the model is not usable.

    Examples
    --------
    >>> import langcell as lc
    >>> fitted = lc.fit_few_shot(labelled, "cell_type", group_key="donor")  # doctest: +SKIP
    >>> lc.annotate(adata, head=fitted)  # doctest: +SKIP
    """
    labels = tuple(label_list(labels or ()))
    options = options_from(FewShotOptions, options, locals())
    source = modality_of(adata, modality)
    named, groups = _read_labels(source, label_key, options)
    name, model = _load(model, options)
    if options.target == DONOR:
        assert groups is not None, "checked by check_donors"
        fitted = fit_donors(source, named, groups, model, options, progress)
    else:
        fitted = _fit_cells(source, named, groups, model, options, progress)
    return replace(fitted, head=replace(fitted.head, model=name))


def _read_labels(
    source: "AnnData | str | Path", label_key: str, options: FewShotOptions
) -> tuple[LabelColumn, np.ndarray | None]:
    """Return the labels and the groups of cells to keep within one fold; check both."""
    given = read_obs_column(source, label_key)
    groups = _groups(source, options.group_key)
    is_type, ontology = options.target == TYPE, Ontology.bundled()
    named = LabelColumn.of(given, label_key, options.labels, ontology, are_types=is_type)
    if options.target == DONOR:
        check_donors(named, groups, label_key, options)
    elif options.target == STATE:
        group_key = None if groups is None else options.group_key
        check_donor_split(source, named.codes, label_key=label_key, group_key=group_key)
    return named, groups


def _load(model: "Embedder | str | Path", options: FewShotOptions) -> tuple[str, Embedder]:
    """Return the name of a model and the model, which must have a weights checksum."""
    name = "in memory"
    if isinstance(model, str | Path):
        # Only heads that tune the model need torch for a bag of genes.
        states = options.kind in RECIPES
        name, model = str(model), load_embedder(model, device=options.device, states=states)
    if not model.sha256:
        raise ValueError(
            "the model was never saved, so it has no checksum: save it with save_pretrained, and fit "
            "the head with the saved model"
        )
    if options.target == TYPE:  # fail before reading cells
        model.config.check_has_texts()
    return name, model


def _fit_cells(
    source: "AnnData | str | Path",
    named: LabelColumn,
    groups: np.ndarray | None,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> FittedHead:
    """Fit a head to cells, and evaluate it on held-out cells."""
    is_type = options.target == TYPE
    rows = sample_labelled(named.codes, named.candidates.keys, options.shots, seed=options.seed)
    cells = read_cells(source, rows, model, options, progress)
    texts, label_features = _texts(named, cells, model, options)
    labelled = LabelledCells(
        labels=named.codes[rows],
        keys=named.candidates.keys,
        label_features=label_features,
        texts=texts,
        features=cells.features,
        tokens=_tokens(cells),
        groups=None if groups is None else groups[rows],
    )
    head, folds = _fit(labelled, named.candidates, model, options, progress)
    # The model's calibration was fitted on cell types and does not apply to states.
    calibration = model_calibration(model.calibration, model.sha256) if is_type else UNCALIBRATED
    fitted = FittedHead(
        head=replace(
            head,
            target=options.target,
            text_weight=head.text_weight if is_type else 0.0,
            model_sha256=model.sha256,
            calibration=calibration,
        ),
        names=named.candidates.names,
        as_text=named.as_text if is_type else (),
        n_without=int(np.sum(named.codes < 0)),
    )
    tree = TermTree.of(named.candidates, Ontology.bundled())
    return evaluate_head(fitted, labelled, folds, tree, group_key=options.group_key)


def _fit(
    labelled: LabelledCells,
    candidates: CandidateSet,
    model: Embedder,
    options: FewShotOptions,
    progress: Progress | None,
) -> tuple[FewShotHead, Folds]:
    """Return the fitted head, and predictions of held-out cells by heads of the same kind."""
    if options.kind not in RECIPES:
        kind = choose_kind(labelled) if options.kind == "auto" else _kind(options.kind)
        return fit_head(labelled, kind, model="", model_sha256=""), held_out(labelled, kind)
    # These import Lightning, which takes seconds.
    from langcell.model.langcell import LangCell
    from zeroshot.fit.finetune import tune_head
    from zeroshot.fit.tuned_model import LabelTexts

    if not isinstance(model, LangCell):
        raise ValueError(
            f"{option('kind', options.kind, flag='--head')} tunes the model, and a FrozenBag has no "
            "trainable weights: pass the name of the model, or a LangCell"
        )
    labels = LabelTexts.of(candidates, labelled.label_features, model)
    tuned = tune_head(
        labelled,
        options.kind,
        model=model,
        labels=labels,
        seed=options.seed,
        progress=progress,
    )
    return tuned.head, tuned.held_out


def _groups(source: "AnnData | str | Path", key: str | None) -> np.ndarray | None:
    """Return a column of groups, or None if it has a single value."""
    if key is None:
        return None
    groups = read_obs_column(source, key)
    if len(set(groups)) > 1:
        return groups
    warnings.warn(f"obs[{key!r}] has only one value: cells are held out instead", stacklevel=3)
    return None


def _texts(
    named: LabelColumn, cells: CellEmbeddings, model: Embedder, options: FewShotOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return zero-shot log-probabilities of the cells and text features of the labels.

    Both are zeros for states: the model was trained on descriptions of cell types, and its zero-shot
    predictions of states are wrong (control cells are called stimulated).
    """
    candidates = named.candidates
    if options.target != TYPE:
        shape = (len(cells.features), len(candidates))
        return np.zeros(shape, np.float32), np.zeros((len(candidates), cells.features.shape[1]))
    scorer = CellScorer(model, candidates, AnnotateOptions(calibration=UNCALIBRATED))
    return scorer.score_all(cells)[1], candidate_features(candidates, model)


def _kind(name: str) -> Kind:
    return next(each for each in FITTED if each == name)


def _tokens(cells: CellEmbeddings) -> TokenBlock:
    assert cells.tokens is not None
    return cells.tokens
