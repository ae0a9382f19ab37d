"""Convert calls to a document of the Cell Annotation Schema.

The schema is CAP_schema.json of the package cell-annotation-schema 1.1.0 (Cell Annotation Platform).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np

from langcell.runtime.parameter_names import option
from langcell.runtime.version import __version__
from ontology.candidates import NEVER_CALLED
from ontology.graph import Ontology
from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.heads.few_shot_head import STATE
from zeroshot.results.read_calls import WrittenCalls

SCHEMA_VERSION = "1.1.0"
NOT_AVAILABLE = "NA"  # the schema's missing value
_MAX_RATIONALE = 2000  # characters
_MAX_TITLE = 200


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Metadata of exported annotations.

    Attributes
    ----------
    title: title of the data set, at most 200 characters
    author: first and last name
    made: time of the calls
    version: version of the annotations
    url: address of the published annotations
    """

    title: str
    author: str
    made: datetime
    version: str = "1.0.0"
    url: str = NOT_AVAILABLE

    def __post_init__(self) -> None:
        if not self.author.strip():
            raise ValueError(
                f"the schema requires the author's name, got none; pass {option('author')}"
            )
        if not 0 < len(self.title) <= _MAX_TITLE:
            raise ValueError(
                f"{option('title')} must have 1 to {_MAX_TITLE} characters, got {len(self.title)}"
            )

    def fields(self) -> dict[str, str]:
        """Return the top-level fields of the schema."""
        return {
            "title": self.title,
            "author_name": self.author,
            "cellannotation_schema_version": SCHEMA_VERSION,
            "cellannotation_timestamp": self.made.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "cellannotation_version": self.version,
            "cellannotation_url": self.url,
        }


Genes = Mapping[str, Sequence[str]]  # genes that raise a call, by label


def annotation_set(
    calls: WrittenCalls,
    ontology: Ontology,
    publication: Publication,
    name: str,
    *,
    evidence: Genes,
) -> dict[str, Any]:
    """Return calls as a document of the schema, with the cell names of each label.

    Parameters
    ----------
    calls: calls of all cells
    ontology: a Cell Ontology release
    publication: metadata of the document
    name: name of the labelset
    evidence: genes that raise each call; labels may be missing
    """
    return {
        **publication.fields(),
        "labelsets": [{"name": name, **labelset(calls)}],
        "annotations": [
            {
                "labelset": name,
                **annotation,
                "cell_ids": calls.cell_names[cells].tolist(),
            }
            for annotation, cells in annotations(calls, ontology, evidence)
        ],
    }


def labelset(calls: WrittenCalls) -> dict[str, Any]:
    """Return description, method and algorithm of a labelset."""
    return {
        "description": _description(calls.notes),
        "annotation_method": "algorithmic",
        "automated_annotation": {
            "algorithm_name": f"langcell ({_algorithm(calls.notes)})",
            "algorithm_version": str(calls.notes.get("version", __version__)),
            "algorithm_repo_url": _repository(),
        },
    }


def annotations(
    calls: WrittenCalls, ontology: Ontology, evidence: Genes
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield the fields of each label with the rows of its cells, sorted by label.

    Fields that do not apply to a label are left out, as the schema requires.
    """
    pairs = np.array([f"{a}\t{b}" for a, b in zip(calls.labels, calls.term_ids, strict=True)])
    distinct, index = np.unique(pairs, return_inverse=True)
    order = np.argsort(index, kind="stable")
    for pair, cells in zip(distinct, np.split(order, _starts(index, len(distinct))), strict=True):
        label, term_id = str(pair).split("\t")
        fields = _annotation(label, term_id, cells, calls, ontology)
        if genes := evidence.get(label):
            fields["marker_gene_evidence"] = list(genes)
        yield fields, cells


def _starts(index: np.ndarray, n: int) -> np.ndarray:
    return np.cumsum(np.bincount(index, minlength=n))[:-1]


def _annotation(
    label: str, term_id: str, cells: np.ndarray, calls: WrittenCalls, ontology: Ontology
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "cell_label": label,
        "cell_fullname": label,
        "rationale": _rationale(label, cells, calls)[:_MAX_RATIONALE],
    }
    if label == UNKNOWN:
        return fields
    fields["cell_ontology_exists"] = bool(term_id)
    if term_id:
        term = ontology.terms[term_id]
        fields["cell_ontology_term_id"] = term_id
        fields["cell_ontology_term"] = term.name
        if term.synonyms:
            fields["synonyms"] = list(term.synonyms)
        if category := _category(term_id, ontology):
            fields["category_fullname"] = ontology.terms[category].name
            fields["category_cell_ontology_exists"] = True
            fields["category_cell_ontology_term_id"] = category
            fields["category_cell_ontology_term"] = ontology.terms[category].name
    return fields


def _category(term_id: str, ontology: Ontology) -> str | None:
    """Return the deepest parent term; None if all parents are too general."""
    parents = [each for each in ontology.parents(term_id) if each not in NEVER_CALLED]
    return max(parents, key=lambda each: (ontology.depth(each), each), default=None)


def _rationale(label: str, cells: np.ndarray, calls: WrittenCalls) -> str:
    n = f"{len(cells):,} cell{'s' if len(cells) > 1 else ''}"
    mean = ""
    if calls.confidence is not None and not np.isnan(calls.confidence[cells]).any():
        is_calibrated = calls.notes.get("calibration", {}).get("id") != UNCALIBRATED.identifier
        kind = "calibrated" if is_calibrated else "uncalibrated"
        mean = f"; mean {kind} confidence {calls.confidence[cells].mean():.2f}"
    if label == UNKNOWN:
        named = "state" if _are_states(calls.notes) else "cell type"
        return f"{n} that no {named} was called with enough confidence for{mean}."
    if "head" in calls.notes:
        return (
            f"{n} called {label!r} by {_head(calls.notes)}, from {_candidates(calls.notes)}{mean}."
        )
    return (
        f"{n} whose expression lies nearest, in the joint space of cells and texts, to the "
        f"description of {label!r}, among {_candidates(calls.notes)}{mean}. "
        "Called without labels of the data set."
    )


def _head(notes: Mapping[str, Any]) -> str:
    """Describe the head that made the calls."""
    head = notes["head"]
    n_cells = int(head["n_cells"])
    return f"a {head['kind']} head (id {head['id']}) fitted to {n_cells:,} labelled cells"


def _are_states(notes: Mapping[str, Any]) -> bool:
    return "head" in notes and notes["head"].get("target") == STATE


def _candidates(notes: Mapping[str, Any]) -> str:
    """Describe the candidates."""
    n = len(notes.get("candidate_names", ()))
    if "head" in notes:
        return f"its {n:,} labels"
    kind = notes.get("candidates", "the candidates")
    return f"{n:,} given candidates" if kind == "given" else str(kind)


def _algorithm(notes: Mapping[str, Any]) -> str:
    """Return the name of the model, and of the head if one made the calls."""
    head = f", {notes['head']['kind']} head {notes['head']['id']}" if "head" in notes else ""
    return f"{notes.get('model', 'model not noted')}{head}"


def _description(notes: Mapping[str, Any]) -> str:
    named = "States of cells" if _are_states(notes) else "Cell types"
    by = f"with {_head(notes)}" if "head" in notes else "and the texts of the Cell Ontology"
    facts = {
        "candidates": _candidates(notes) if "candidates" in notes else None,
        "Cell Ontology": notes.get("ontology_release"),
        "counts": notes.get("counts_source"),
        "model sha256": notes.get("model_sha256"),
    }
    known = "; ".join(f"{name}: {value}" for name, value in facts.items() if value)
    return f"{named} called by langcell from expression {by}" + (f" ({known})." if known else ".")


def _repository() -> str:
    """Return the source URL in the metadata of the installed package."""
    entries = metadata.metadata("langcell").get_all("Project-URL") or []
    places = [entry.split(", ", 1) for entry in entries]
    named = {name: url for name, url in places if name in ("Source", "Homepage")}
    return named.get("Source") or named.get("Homepage") or NOT_AVAILABLE
