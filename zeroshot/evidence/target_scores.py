"""Call a cell or cluster to explain, and find the runner-up."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from langcell.model.embed_cells import CellEmbeddings
from langcell.model.langcell import LangCell
from langcell.runtime.parameter_names import option
from langcell.tokens.tokenizer import TokenBlock
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.evidence.attribution import token_features
from zeroshot.evidence.head_evidence import HeadDirections, adapted_model
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.labels.candidates import (
    FREE_TEXT,
    CandidateSet,
    all_candidates,
    candidate_features,
    own_candidates,
)
from zeroshot.labels.queries import Query, query_features, read_queries


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetCall:
    """The label of a target and the label that it is compared with.

    Attributes
    ----------
    label: label to explain
    against: label to compare with, None for none
    features: text features of the label, and of `against` if any, shape (embedding_dim,) each
    ranks: a head's weights of gene ranks for the same labels, shape (vocabulary size,) each; ()
        without a head
    """

    label: Query
    against: Query | None
    features: tuple[np.ndarray, ...]
    ranks: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _LabelDirection:
    """A label, its direction in feature space, and with a head its direction in rank space."""

    query: Query
    features: np.ndarray
    ranks: np.ndarray | None = None


class TargetScorer:
    """Calls targets by the mean probability of candidates over their cells.

    Parameters
    ----------
    model: model that encodes cells and labels
    ontology: ontology of the labels
    labels: candidates as in `langcell.annotate`; None for all cell types
    head: few-shot head that scores the candidates; its labels are the default candidates
    against: label to compare every label with; None for the runner-up
    """

    def __init__(
        self,
        model: LangCell,
        ontology: Ontology,
        *,
        labels: Sequence[str] | None = None,
        head: FewShotHead | None = None,
        against: str | None = None,
    ) -> None:
        self.model = model if head is None else adapted_model(head, model)
        self._ontology, self._head = ontology, head
        wanted = labels or (head.keys if head is not None else None)
        candidates = own_candidates(wanted, ontology) if wanted else all_candidates(ontology)
        self._candidates: CandidateSet = candidates
        # No calibration: candidates are explained before back-off.
        options = AnnotateOptions(calibration=UNCALIBRATED, head=head, key_added="explained")
        self._scorer = CellScorer(model, candidates, options)
        self._features, self._ranks = self._directions(head)
        self._against = self._read_label(against) if against is not None else None

    def _directions(self, head: FewShotHead | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return directions of the candidates in feature space, and with a head in rank space."""
        if head is None:
            return candidate_features(self._candidates, self.model), None
        texts = np.zeros((len(self._candidates), self.model.config.embedding_dim), dtype=np.float32)
        if head.text_weight:
            texts = candidate_features(self._candidates, self.model)
        found = HeadDirections.of(head, texts, self.model)
        return found.features, found.ranks

    def call(self, cells: Sequence[np.ndarray], label: str | None = None) -> TargetCall:
        """Return the label of a target and the label to compare it with.

        Parameters
        ----------
        cells: gene tokens of each of its cells, highest rank first
        label: label to explain; None for the best candidate
        """
        probabilities = self._probabilities(cells)
        chosen = self._read_label(label) if label is not None else None
        chosen = chosen or self._candidate(int(np.argmax(probabilities)))
        against = self._against or self._runner_up(probabilities, chosen.query)
        if against.query.text == chosen.query.text:
            raise ValueError(
                f"{chosen.query.name!r} cannot be compared with itself; pass another label as "
                f"{option('against')}"
            )
        return TargetCall(
            label=chosen.query,
            against=against.query,
            features=(chosen.features, against.features),
            ranks=tuple(each.ranks for each in (chosen, against) if each.ranks is not None),
        )

    def _probabilities(self, cells: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean probability of each candidate over cells, shape (n_candidates,)."""
        read = [tokens[: self.model.config.max_genes] for tokens in cells]
        features = token_features(self.model, read)
        embedded = CellEmbeddings(start=0, features=features, tokens=TokenBlock.of(read))
        _, log_probabilities = self._scorer.score_all(embedded)  # (n_cells, n_candidates)
        return np.exp(log_probabilities.astype(np.float64)).mean(axis=0)

    def _runner_up(self, probabilities: np.ndarray, chosen: Query) -> _LabelDirection:
        """Return the best other candidate that is no ancestor or descendant, else the best other."""
        order = [int(row) for row in np.argsort(-probabilities, kind="stable")]
        others = [row for row in order if self._candidates.texts[row] != chosen.text]
        for row in others:
            term_id = self._candidates.ids[row]
            if not (term_id and chosen.term_id) or not self._ontology.is_comparable(
                term_id, chosen.term_id
            ):
                return self._candidate(row)
        return self._candidate(others[0])

    def _candidate(self, row: int) -> _LabelDirection:
        all_ = self._candidates
        query = Query(
            words=all_.names[row], term_id=all_.ids[row], name=all_.names[row], text=all_.texts[row]
        )
        ranks = None if self._ranks is None else self._ranks[row]
        return _LabelDirection(query=query, features=self._features[row], ranks=ranks)

    def _read_label(self, words: str) -> _LabelDirection:
        (query,) = read_queries([words], self._ontology)
        if self._head is not None:
            return self._label_of_head(words, query)
        if not query.term_id and not words.lower().startswith(FREE_TEXT):
            warnings.warn(
                f"{words!r} does not match exactly one Cell Ontology term and is read as free text; "
                "look up terms with langcell ontology resolve",
                stacklevel=2,
            )
        return _LabelDirection(query=query, features=query_features([query], self.model)[0])

    def _label_of_head(self, words: str, query: Query) -> _LabelDirection:
        """Return a label of the head; raise ValueError if it has no such label."""
        all_ = self._candidates
        for row, (name, term_id) in enumerate(zip(all_.names, all_.ids, strict=True)):
            if words == name or (term_id and term_id == query.term_id):
                return self._candidate(row)
        raise ValueError(f"the head has no label {words!r}; it has {', '.join(all_.names)}")
