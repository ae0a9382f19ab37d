"""Identity of a run: an interrupted run resumes only if nothing that affects the results changed."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from langcell.counts.reader import CountMatrix
from langcell.model.embed_cells import BLOCK_CELLS
from langcell.runtime.version import __version__
from zeroshot.annotate.cell_scorer import CellScorer
from zeroshot.labels.candidates import CandidateSet

_OPTIONS = (
    *("layer", "allow_normalized", "batch_size", "top_k"),
    *("rerank", "rerank_weight", "scoring", "alpha", "confidence"),
)


def annotation_job(
    source: Path, matrix: CountMatrix, scorer: CellScorer, *, width: int
) -> dict[str, Any]:
    """Return the identity of a run as JSON values (`zeroshot.results.partial_results.open_results`).

    The number of threads is not included: it only affects rounding.

    Parameters
    ----------
    source: the input
    matrix: counts of the input
    scorer: scorer with model, candidates and options
    width: dimension of the stored embeddings
    """
    options = scorer.options
    return {
        "langcell": __version__,
        "source": _file_state(source),
        "counts": [matrix.source, matrix.transform, matrix.n_cells],
        # A model that was never saved has no hash: never resume from its results.
        "model": scorer.model.sha256 or secrets.token_hex(),
        "device": options.device.partition(":")[0],
        "candidates": _digest(scorer.candidates),
        "head": options.head.identifier if options.head is not None else "",
        "calibration": scorer.calibration.identifier,
        "options": {name: getattr(options, name) for name in _OPTIONS},
        "records": [width, BLOCK_CELLS],
    }


def _file_state(source: Path) -> list[Any]:
    """Return path, size and modification time, for a folder over all of its files."""
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    states = [file.stat() for file in files]
    return [
        str(source.resolve()),
        sum(each.st_size for each in states),
        max((each.st_mtime_ns for each in states), default=0),
    ]


def _digest(candidates: CandidateSet) -> str:
    words = [candidates.ids, candidates.names, candidates.texts, candidates.is_choice]
    found = hashlib.sha256(json.dumps(words).encode())
    if candidates.tissue is not None:
        found.update(candidates.tissue.log_prior.tobytes())
        if candidates.tissue.rows is not None:
            found.update(candidates.tissue.rows.tobytes())
    return found.hexdigest()
