"""What scores cells against candidate terms: one protocol for models and baselines alike."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from benchmarks.baselines.puzzle_solvers import SOLVERS, label_similarities, solve
from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.model_scores import candidate_scores
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.embedder import Embedder
from ontology.graph import Ontology
from zeroshot.annotate.cell_scorer import CellScorer
from zeroshot.annotate.options import AnnotateOptions
from zeroshot.decide.puzzle_files import Genes, embed_gene_lists
from zeroshot.decide.puzzles import Answer as PuzzleAnswer
from zeroshot.decide.puzzles import Puzzle
from zeroshot.labels.candidates import (
    FREE_TEXT,
    CandidateSet,
    ontology_candidates,
    own_candidates,
)

_CHOICE = 100  # so many candidates are a choice, as `--labels` makes it; more are an ontology's


class Annotator(Protocol):
    """Scores the labelled cells of a file against candidates."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def scores(self, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Return float32, shape (n_cells, n_candidates); higher is likelier.

        Only the order within a row counts; -inf is a candidate that the annotator cannot call.

        Parameters
        ----------
        file: whose labelled cells are scored; its labels are not to be looked at
        candidates: term ids
        """
        ...


class LangCellAnnotator:
    """A langcell model: cosine between cells and the texts of the candidates.

    Parameters
    ----------
    name: for the table
    model: any checkpoint
    ontology: gives the candidates their texts
    options: `batch_size`, `rerank`, `rerank_weight` and `top_k` are read
    """

    def __init__(
        self, name: str, model: Embedder, ontology: Ontology, options: AnnotateOptions
    ) -> None:
        self.name = name
        self._model = model
        self._ontology = ontology
        self._options = options
        self._embedded: tuple[LabelledFile, np.ndarray] | None = None

    def scores(self, file: LabelledFile, candidates: Sequence[str]) -> np.ndarray:
        """Score cells as `langcell zeroshot` does; see `Annotator.scores`."""
        chosen = self._chosen(candidates)
        if self._options.rerank:
            return self._reranked(file, chosen)
        return candidate_scores(self._model, self._features(file), chosen)

    def list_scores(self, genes: Sequence[Genes], candidates: Sequence[str]) -> np.ndarray:
        """Score lists of marker genes, each read as a cell that is known by its ranks alone.

        Parameters
        ----------
        genes: of each list, the best marker first
        candidates: term ids

        Returns
        -------
        float32, shape (n_lists, n_candidates); higher is likelier
        """
        features = embed_gene_lists(self._model, genes, in_order=True)
        return candidate_scores(self._model, features, self._chosen(candidates))

    def word_scores(self, file: LabelledFile, texts: Sequence[str]) -> np.ndarray:
        """Score cells against words, as `--labels 'text: ...'` does.

        Returns
        -------
        float32, shape (n_cells, n_texts); higher is likelier
        """
        keys = [f"{FREE_TEXT} {text}" for text in texts]
        chosen = own_candidates(keys, self._ontology)
        scores = candidate_scores(self._model, self._features(file), chosen)
        return scores[:, [chosen.keys.index(key) for key in keys]]

    def puzzle_answers(
        self, puzzles: Sequence[Puzzle], genes: Sequence[Genes]
    ) -> list[PuzzleAnswer]:
        """Match cells that are known by their top genes with labels, all of a puzzle jointly.

        Parameters
        ----------
        puzzles: their `cells` are places in `genes`
        genes: of each cell, highest expression first
        """
        features = embed_gene_lists(self._model, genes)
        labels = sorted({label for puzzle in puzzles for label in puzzle.labels})
        table = label_similarities(self._model, features, labels, self._ontology)
        return solve(puzzles, table, SOLVERS["joint"], seed=0)

    def _chosen(self, candidates: Sequence[str]) -> CandidateSet:
        if len(candidates) <= _CHOICE:
            return own_candidates(candidates, self._ontology)
        return ontology_candidates(candidates, self._ontology, described="terms")

    def _features(self, file: LabelledFile) -> np.ndarray:
        """Features of the labelled cells; those of the last file are kept for its next space."""
        if self._embedded is None or self._embedded[0] is not file:
            with open_counts(file.path, scale=file.scale) as matrix:
                blocks = embed_cells(self._model, matrix, batch_size=self._options.batch_size)
                features = np.concatenate([cells.features for cells in blocks])
            self._embedded = file, features[file.is_labelled]
        return self._embedded[1]

    def _reranked(self, file: LabelledFile, candidates: CandidateSet) -> np.ndarray:
        """Scores of the best candidates; -inf for the others."""
        scorer = CellScorer(self._model, candidates, self._options)
        parts = []
        with open_counts(file.path, scale=file.scale) as matrix:
            for cells in embed_cells(
                self._model, matrix, batch_size=self._options.batch_size, states=True
            ):
                found = scorer(cells)
                part = np.full((len(cells.features), len(candidates)), -np.inf, dtype=np.float32)
                np.put_along_axis(part, found.candidates, found.log_probabilities, axis=1)
                parts.append(part)
        return np.concatenate(parts)[file.is_labelled]
