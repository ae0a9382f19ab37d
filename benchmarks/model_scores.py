"""Cells of a model against candidates, scored as `langcell zeroshot` scores them."""

import numpy as np

from benchmarks.studies import LabelledFile
from langcell.counts import open_counts
from langcell.embed import embed_cells
from langcell.model import LangCell
from zeroshot.candidates import CandidateSet, candidate_features, candidate_offsets

_BATCH = 256  # cells; a bag of genes is fastest with many


def file_features(model: LangCell, file: LabelledFile) -> np.ndarray:
    """Embed the labelled cells of a file, float32, shape (n_cells, embedding_dim)."""
    with open_counts(file.path, scale=file.scale) as matrix:
        blocks = embed_cells(model, matrix, batch_size=_BATCH)
        features = np.concatenate([block.features for block in blocks])
    return features[file.is_labelled]


def candidate_scores(
    model: LangCell, features: np.ndarray, candidates: CandidateSet, *, offsets: bool = True
) -> np.ndarray:
    """Return the similarity of cells and candidates, shape (n_cells, n_candidates).

    Parameters
    ----------
    features: of cells, shape (n_cells, embedding_dim)
    offsets: take off what `candidate_offsets` says, as is done for a user
    """
    texts = candidate_features(candidates, model)
    scores = features @ texts.T
    taken_off = candidate_offsets(candidates, texts, model) if offsets else None
    return scores if taken_off is None else scores - taken_off
