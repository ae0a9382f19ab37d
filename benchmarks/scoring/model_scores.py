"""Score cells against candidates with a model, as `langcell zeroshot` does."""

from dataclasses import replace

import numpy as np

from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import CellEmbeddings, embed_cells
from langcell.model.embedder import Embedder
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.labels.candidates import CandidateSet

_BATCH = 256  # cells; large batches are fastest for a bag of genes


def file_features(model: Embedder, file: LabelledFile) -> np.ndarray:
    """Embed the labelled cells of a file, float32, shape (n_cells, embedding_dim)."""
    with open_counts(file.path, scale=file.scale) as matrix:
        blocks = embed_cells(model, matrix, batch_size=_BATCH)
        features = np.concatenate([block.features for block in blocks])
    return features[file.is_labelled]


def candidate_scores(
    model: Embedder, features: np.ndarray, candidates: CandidateSet, *, even: bool = True
) -> np.ndarray:
    """Return the log-probability of each candidate, float32, shape (n_cells, n_candidates).

    Parameters
    ----------
    features: embeddings of cells, shape (n_cells, embedding_dim)
    even: score as `langcell zeroshot` does; else by similarity alone, without label offsets and
        without propagation from labels to their subtypes
    """
    if not even:
        candidates = replace(candidates, is_choice=False, subtypes=None)
    scorer = CellScorer(model, candidates, AnnotateOptions(calibration=UNCALIBRATED))
    return scorer.score_all(CellEmbeddings(start=0, features=features))[1]
