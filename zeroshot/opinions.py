"""What a model calls a target, and what it would call it next."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langcell.embed import CellEmbeddings
from langcell.model import LangCell
from ontology.graph import Ontology
from zeroshot.annotate_options import AnnotateOptions
from zeroshot.attribution import token_features
from zeroshot.calibration import UNCALIBRATED
from zeroshot.candidates import (
    FREE_TEXT,
    CandidateSet,
    all_candidates,
    candidate_features,
    own_candidates,
)
from zeroshot.cell_scorer import CellScorer
from zeroshot.queries import Query, query_features, read_queries


@dataclass(frozen=True, kw_only=True, eq=False)
class Opinion:
    """A label and what it is held against, None for nothing.

    Attributes
    ----------
    features: of the label, and of the other where there is one, (embedding_dim,) each
    """

    label: Query
    against: Query | None
    features: tuple[np.ndarray, ...]


class Opinions:
    """Calls targets by the mean probability of candidates over their cells.

    Parameters
    ----------
    model: that encodes cells and labels
    ontology: of the labels
    labels: candidates as in `zeroshot.annotate`; None for all cell types
    against: what every label is held against; None for the runner-up
    """

    def __init__(
        self,
        model: LangCell,
        ontology: Ontology,
        *,
        labels: Sequence[str] | None = None,
        against: str | None = None,
    ) -> None:
        self._model, self._ontology = model, ontology
        candidates = own_candidates(labels, ontology) if labels else all_candidates(ontology)
        self._candidates: CandidateSet = candidates
        self._features = candidate_features(candidates, model)
        # Of candidates alone: what is explained is not what back-off makes of them.
        self._scorer = CellScorer(model, candidates, AnnotateOptions(calibration=UNCALIBRATED))
        self._against = self._asked(against) if against is not None else None

    def of(self, cells: Sequence[np.ndarray], label: str | None = None) -> Opinion:
        """Return the opinion on a target.

        Parameters
        ----------
        cells: gene tokens of each of its cells, highest rank first
        label: what to call it; None for the best candidate
        """
        probabilities = self._probabilities(cells)
        chosen = self._asked(label) if label is not None else None
        chosen = chosen or self._candidate(int(np.argmax(probabilities)))
        against = self._against or self._runner_up(probabilities, chosen[0])
        if against[0].text == chosen[0].text:
            raise ValueError(f"{chosen[0].name!r} cannot be compared with itself; name another")
        return Opinion(label=chosen[0], against=against[0], features=(chosen[1], against[1]))

    def _probabilities(self, cells: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean probability of each candidate over cells, shape (n_candidates,)."""
        embedded = CellEmbeddings(start=0, features=token_features(self._model, cells))
        _, log_probabilities = self._scorer.score_all(embedded)  # (n_cells, n_candidates)
        return np.exp(log_probabilities.astype(np.float64)).mean(axis=0)

    def _runner_up(self, probabilities: np.ndarray, chosen: Query) -> tuple[Query, np.ndarray]:
        """Return the best candidate that says something else, or else the best other one."""
        order = [int(row) for row in np.argsort(-probabilities, kind="stable")]
        others = [row for row in order if self._candidates.texts[row] != chosen.text]
        for row in others:
            term_id = self._candidates.ids[row]
            if not (term_id and chosen.term_id) or not self._ontology.is_comparable(
                term_id, chosen.term_id
            ):
                return self._candidate(row)
        return self._candidate(others[0])

    def _candidate(self, row: int) -> tuple[Query, np.ndarray]:
        of = self._candidates
        query = Query(
            words=of.names[row], term_id=of.ids[row], name=of.names[row], text=of.texts[row]
        )
        return query, self._features[row]

    def _asked(self, words: str) -> tuple[Query, np.ndarray]:
        (query,) = read_queries([words], self._ontology)
        if not query.term_id and not words.lower().startswith(FREE_TEXT):
            warnings.warn(
                f"{words!r} names no one Cell Ontology term and is read as free text; see langcell "
                "ontology resolve",
                stacklevel=2,
            )
        return query, query_features([query], self._model)[0]
