"""Arena task: name lists of marker genes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol, runtime_checkable

import numpy as np

from benchmarks.arena.leaks import ListLeaks
from benchmarks.arena.results import Method, Unit, rounded
from benchmarks.data.marker_lists import Genes, MarkerLists, human_symbols
from benchmarks.data.named_answers import Answer
from benchmarks.scoring.marker_agreement import agreement
from benchmarks.scoring.text_metrics import text_figures
from langcell.nn.metrics import is_descendant
from langcell.runtime.digest import sha256_of
from ontology.candidates import all_cell_types
from ontology.graph import Ontology

_TOP = 5
_TERM_FIGURES = ("descendant", "distance", "top5")
_TEXT_FIGURES = ("exact_match", "token_f1", "rouge1", "meteor", "bleu")


@runtime_checkable
class ListAnswerer(Protocol):
    """Protocol of annotators that name marker lists in free text or terms."""

    def answers(self, lists: MarkerLists) -> Sequence[Answer | None]:
        """Return an answer for each list, None if it was not asked; the truth must not be read."""
        ...


@runtime_checkable
class ListScorer(Protocol):
    """Protocol of annotators that score marker lists against candidates."""

    def list_scores(self, genes: Sequence[Genes], candidates: Sequence[str]) -> np.ndarray:
        """Return scores, float32, shape (n_lists, n_candidates); higher is more likely."""
        ...


class MarkerListTask:
    """Agreement of predicted names with those of an expert.

    An annotator that scores is asked twice: among all cell types (the main score) and among the
    terms of the table. Scores: `agreement` (`benchmarks.scoring.marker_agreement`), `full` and
    `partial`, the shares of agreement 1 and 0.5; `agreement among table's terms`; for lists whose
    truth is one term, `descendant` (that term or a subtype), `distance` in edges and `top5`; and the
    text metrics.

    Parameters
    ----------
    lists: the table
    ontology: a Cell Ontology release
    leaks: finds lists that an annotator may know from training
    """

    name = "marker-lists"
    title = "what ten marker genes are called, among all cell types"
    own = "agreement among table's terms"
    figures: tuple[str, ...] = ("agreement", "full", "partial", own, *_TERM_FIGURES, *_TEXT_FIGURES)
    by_row = True

    def __init__(self, lists: MarkerLists, ontology: Ontology, leaks: ListLeaks) -> None:
        self._lists = lists
        self._ontology = ontology
        self._leaks = leaks
        n = len(set(lists.datasets))
        self.data = f"{len(lists):,} lists of {n} sources, {lists.path.name}"

    @property
    def digest(self) -> str:
        """Digest of the table and the ontology release."""
        return f"{sha256_of(self._lists.path)} {self._ontology.title}"

    def takes(self, annotator: object) -> bool:
        """Accept annotators that answer or score lists."""
        return isinstance(annotator, ListAnswerer | ListScorer)

    def units(self, method: Method) -> tuple[list[Unit], list[str]]:
        """Return the scores of each source, separately for leaking and other lists."""
        annotator = method.annotator
        own: Sequence[Answer | None] | None = None
        top: np.ndarray | None = None
        if isinstance(annotator, ListAnswerer):
            answers = annotator.answers(self._lists)
        else:
            assert isinstance(annotator, ListScorer)
            answers, top = self._best(annotator, all_cell_types(self._ontology))
            own, _ = self._best(annotator, self._lists.candidates(self._ontology))
        leaks = self._leaks.of(method.trained_on, self._lists)
        asked = np.array([each is not None for each in answers])
        units = []
        for source, leak in dict.fromkeys(zip(self._lists.datasets, leaks, strict=True)):
            of_unit = (self._lists.datasets == source) & (leaks == leak) & asked
            rows = np.flatnonzero(of_unit)
            if len(rows):
                figures = self._figures(rows, answers, own, top)
                name = f"{source}, {leak}" if leak else str(source)
                units.append(Unit(name=name, n=len(rows), figures=rounded(figures), leak=str(leak)))
        notes = [] if asked.all() else [f"asked for {asked.sum():,} of {len(asked):,} lists"]
        return units, notes + list(getattr(annotator, "notes", ()))

    def _best(
        self, annotator: ListScorer, candidates: Sequence[str]
    ) -> tuple[list[Answer | None], np.ndarray]:
        scores = annotator.list_scores(human_symbols(self._lists.genes), candidates)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
        broad = self._lists.broad_types
        return [broad.answer(candidates[row[0]]) for row in best], np.array(candidates)[best]

    def _figures(
        self,
        rows: np.ndarray,
        answers: Sequence[Answer | None],
        own: Sequence[Answer | None] | None,
        top: np.ndarray | None,
    ) -> dict[str, float]:
        truth = [self._lists.truth[row] for row in rows]
        given = [_known(answers[row]) for row in rows]
        scores = np.array([agreement(*pair) for pair in zip(truth, given, strict=True)])
        figures = {
            "agreement": float(scores.mean()),
            "full": float(np.mean(scores == 1)),
            "partial": float(np.mean(scores == 0.5)),
        }
        if own is not None:
            pairs = zip(truth, [_known(own[row]) for row in rows], strict=True)
            figures[self.own] = float(np.mean([agreement(*pair) for pair in pairs]))
        figures |= self._term_figures(truth, given, top[rows] if top is not None else None)
        words = text_figures([each.label for each in given], [self._names(each) for each in truth])
        return figures | asdict(words)

    def _term_figures(
        self, truth: Sequence[Answer], given: Sequence[Answer], top: np.ndarray | None
    ) -> dict[str, float]:
        """Return scores over lists whose truth is one term; answers without a term are wrong."""
        index = self._ontology.index
        rows = [row for row, each in enumerate(truth) if each.term_id in index]
        if not rows:
            return {}
        right = np.array([index[str(truth[row].term_id)] for row in rows])
        called = np.array([index.get(str(given[row].term_id), -1) for row in rows])
        found = is_descendant(right, called, self._ontology.closure)
        steps = [
            self._ontology.distance(self._ontology.ids[a], self._ontology.ids[b])
            for a, b in zip(right, called, strict=True)
            if b >= 0
        ]
        figures = {
            "descendant": float(found.mean()),
            "distance": float(np.mean(steps)) if steps else float("nan"),
        }
        if top is not None:
            hits = [str(truth[row].term_id) in top[row] for row in rows]
            figures["top5"] = float(np.mean(hits))
        return figures

    def _names(self, truth: Answer) -> list[str]:
        """Return the expert's wording, and the name and synonyms of the term."""
        term = self._ontology.terms.get(str(truth.term_id))
        return [truth.label, *((term.name, *term.synonyms) if term else ())]


def _known(answer: Answer | None) -> Answer:
    assert answer is not None, "rows that were not asked are left out"
    return answer
