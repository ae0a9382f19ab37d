"""Methods of the arena that need no network: models, baselines, recorded answers."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import yaml

from benchmarks.arena.fewshot import FewShotMethod
from benchmarks.arena.leaks import TrainedOn, trained_on
from benchmarks.arena.results import Method
from benchmarks.baselines.annotators import LangCellAnnotator
from benchmarks.baselines.baseline import Baseline, TrainingMajority, TrainingSplit
from benchmarks.baselines.gene_list_neighbors import (
    GeneListNeighbors,
    MarkerListOverlap,
    RandomName,
)
from benchmarks.baselines.methods import METHODS, missing_extra
from benchmarks.data.marker_lists import MarkerLists
from benchmarks.data.named_answers import Answer
from benchmarks.scoring.answer_terms import AnswerTerms
from langcell.checkpoints.checkpoint import resolve_checkpoint
from langcell.model.embedder import load_embedder
from ontology.graph import Ontology
from pretrain.recipe.sources import find_sources
from zeroshot.annotation.options import AnnotateOptions

MODEL, FEW_SHOT, BASELINE = "model", "few-shot", "baseline"
RECORDED, LANGUAGE_MODEL = "recorded", "language model"
_RECIPE = "recipe.yaml"


class RecordedAnswers:
    """Answers of a system that are recorded in a table of marker lists.

    Free-text answers are mapped to terms, as those of language models.
    """

    def __init__(self, system: str, ontology: Ontology) -> None:
        self._system = system
        self._ontology = ontology

    def answers(self, lists: MarkerLists) -> Sequence[Answer | None]:
        """Return the recorded answers, None if the system was not asked."""
        recorded = lists.recorded[self._system]
        if self._system not in lists.worded:
            return recorded
        terms = AnswerTerms(self._ontology, lists.broad_types)
        return [None if each is None else terms.answer(each.label) for each in recorded]


def models(names: Sequence[str], corpus: Path, ontology: Ontology, device: str) -> list[Method]:
    """Load langcell models.

    Parameters
    ----------
    names: bundled names, folders or hub ids
    corpus: folder whose manifest lists the studies of training files
    """
    found = []
    for name in names:
        model = load_embedder(name, device=device)
        annotator = LangCellAnnotator(name, model, ontology, AnnotateOptions(device=device))
        sources = _training_files(resolve_checkpoint(name))
        found.append(
            Method(
                name=name,
                kind=MODEL,
                annotator=annotator,
                identity=model.sha256,
                trained_on=trained_on(corpus, sources) if sources else None,
            )
        )
    return found


def baselines(
    names: Sequence[str], split: TrainingSplit, corpus: Path, cache: Path
) -> tuple[list[Method], list[str]]:
    """Return baselines fitted on the training split, and a message for each one left out."""
    known = trained_on(corpus, [source.name for source in find_sources(split.recipe)])
    found = [_baseline("majority", TrainingMajority(split), split.fingerprint, known)]
    left_out = []
    for name in names:
        if extra := missing_extra(name):
            left_out.append(f"{name}: not installed; pip install 'langcell[{extra}]'")
            continue
        method = METHODS[name]
        versions = [f"{each} {metadata.version(each)}" for each in method.packages]
        identity = " ".join([split.fingerprint, *versions])
        found.append(_baseline(name, Baseline(method, split, cache), identity, known))
    return found, left_out


def list_methods(lists: MarkerLists, ontology: Ontology) -> list[Method]:
    """Return baselines that use other marker lists only, and the recorded systems."""
    simple = (GeneListNeighbors(), MarkerListOverlap(), RandomName())
    found = [_baseline(each.name, each, "") for each in simple]
    for system in lists.recorded:
        annotator = RecordedAnswers(system, ontology)
        found.append(Method(name=system, kind=RECORDED, annotator=annotator, identity=""))
    return found


def few_shot_methods(names: Sequence[str]) -> list[Method]:
    """Return few-shot methods, which are fitted on labelled cells of the same study."""
    return [
        Method(name=f"few-shot {name}", kind=FEW_SHOT, annotator=FewShotMethod(name), identity="")
        for name in names
    ]


def _baseline(
    name: str, annotator: object, identity: str, known: TrainedOn | None = None
) -> Method:
    return Method(
        name=name, kind=BASELINE, annotator=annotator, identity=identity, trained_on=known
    )


def _training_files(folder: Path) -> list[str]:
    """Return the names of the training files of a checkpoint, empty if it has no record."""
    path = folder / _RECIPE
    if not path.is_file():
        return []
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Path(file).stem for source in recipe.get("sources", []) for file in source.get("files", [])
    ]
