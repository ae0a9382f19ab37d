"""What the results of a run depend on: an interrupted one goes on only if it is all the same."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from langcell.counts.reader import CountMatrix
from langcell.model.embed_cells import BLOCK_CELLS
from langcell.runtime.version import __version__
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.labels.candidates import CandidateSet

_OPTIONS = (
    *("layer", "allow_normalized", "batch_size", "top_k"),
    *("rerank", "rerank_weight", "scoring", "alpha", "confidence"),
)


def annotation_job(
    source: Path, matrix: CountMatrix, scorer: CellScorer, *, width: int
) -> dict[str, Any]:
    """Describe a run in plain values, for `zeroshot.results.partial_results.open_results`.

    Threads are left out: they change no more than the rounding.

    Parameters
    ----------
    source: the input
    matrix: its counts
    scorer: with model, candidates and options
    width: of the features that are stored
    """
    options = scorer.options
    return {
        "langcell": __version__,
        "source": _file_state(source),
        "counts": [matrix.source, matrix.transform, matrix.n_cells],
        # A model that was never saved has no name to be known by.
        "model": scorer.model.sha256 or secrets.token_hex(),
        "device": str(scorer.model.device).partition(":")[0],
        "candidates": _digest(scorer.candidates),
        "head": options.head.identifier if options.head is not None else "",
        "calibration": scorer.calibration.identifier,
        "options": {name: getattr(options, name) for name in _OPTIONS},
        "records": [width, BLOCK_CELLS],
    }


def _file_state(source: Path) -> list[Any]:
    """Return path, size and time of change; of a folder, over all that is in it."""
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
