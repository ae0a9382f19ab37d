"""Candidate labels: all cell types, or those given by a user."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from langcell.model.embedder import Embedder
from langcell.runtime.keywords import as_list
from ontology.candidates import NEVER_CALLED, all_cell_types
from ontology.descriptions import describe
from ontology.graph import Ontology
from ontology.labels import LabelResolver, Resolution
from zeroshot.labels.subtypes import Subtypes
from zeroshot.labels.tissue_weights import TissueWeights

_ID = re.compile(r"[A-Za-z]+[:_]\d+")
_LONGEST_PATH = 255  # no file system has longer names
FREE_TEXT = "text:"  # prefix of a label that is a description and not a term


@dataclass(frozen=True, kw_only=True, repr=False)
class CandidateSet:
    """Candidate labels; each field has one entry per label.

    Attributes
    ----------
    ids: Cell Ontology ids; '' for free text
    names: names in the ontology; free text as given
    texts: input of the text encoder
    described: source of the set, such as "all cell types" or "given"
    subtypes: descendants of each label; only for a whole ontology, in which every term competes
        with its own ancestors, which are correct too but less specific
    is_choice: True if a user chose the labels for these cells, so that all are equally likely a
        priori; False for a whole ontology, most of which cannot occur among the cells
    tissue: log-priors of the labels in the tissues of the cells
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    texts: tuple[str, ...]
    described: str
    is_choice: bool = False
    subtypes: Subtypes | None = None
    tissue: TissueWeights | None = None

    def __repr__(self) -> str:
        return f"CandidateSet({len(self):,} labels: {self.described})"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def keys(self) -> tuple[str, ...]:
        """Identifier of each candidate: its Cell Ontology id, or "text: <words>"."""
        return tuple(map(candidate_key, self.ids, self.names))


def candidate_key(term_id: str, name: str) -> str:
    """Return the identifier of a candidate: its Cell Ontology id, or "text: <words>".

    >>> candidate_key("CL:0000236", "B cell"), candidate_key("", "a cell that glows")
    ('CL:0000236', 'text: a cell that glows')
    """
    return term_id or f"{FREE_TEXT} {name}"


def all_candidates(ontology: Ontology) -> CandidateSet:
    """Return all cell types of animal tissue (`ontology.candidates.all_cell_types`)."""
    return ontology_candidates(all_cell_types(ontology), ontology, described="all cell types")


def ontology_candidates(ids: Sequence[str], ontology: Ontology, *, described: str) -> CandidateSet:
    """Return terms of an ontology that were not chosen for the cells (`is_choice` is False)."""
    return CandidateSet(
        ids=tuple(ids),
        names=tuple(ontology.terms[term_id].name for term_id in ids),
        texts=tuple(describe(ontology, term_id) for term_id in ids),
        described=described,
        subtypes=Subtypes.among(tuple(ids), ontology),
    )


def own_candidates(labels: str | Sequence[str], ontology: Ontology) -> CandidateSet:
    """Return the labels of a user as candidates.

    Labels of the same term become one candidate, in the order of their first occurrence.

    Parameters
    ----------
    labels: Cell Ontology ids, names or synonyms; "text: <words>" for anything else
    ontology: a Cell Ontology release

    Raises
    ------
    ValueError
        If a label names no cell type or one that is never called, a free text is empty, or fewer
        than two labels remain.
    """
    labels = [label.strip() for label in label_list(labels) if label.strip()]
    if any(label.lower() == FREE_TEXT for label in labels):
        raise ValueError(f"label {FREE_TEXT!r} has no words; write '{FREE_TEXT} <words>'")
    named = [label for label in labels if not label.lower().startswith(FREE_TEXT)]
    resolutions = {found.label: found for found in LabelResolver(ontology).resolve(named)}
    if failed := [found for found in resolutions.values() if found.term_id is None]:
        raise ValueError(unresolved_message(failed, ontology))
    if general := [each.label for each in resolutions.values() if each.term_id in NEVER_CALLED]:
        raise ValueError(f"label {general[0]!r} is too general for a call; leave it out")
    entries: dict[str, tuple[str, str, str]] = {}
    for label in labels:
        if label in resolutions:
            term_id = str(resolutions[label].term_id)
            entries[term_id] = (term_id, ontology.terms[term_id].name, describe(ontology, term_id))
        else:
            words = label[len(FREE_TEXT) :].strip()
            entries[label] = ("", words, free_text_description(words))
    if len(entries) < 2:
        raise ValueError(
            f"candidates need at least two different labels, got {len(entries)}: "
            f"{', '.join(name for _, name, _ in entries.values()) or 'none'}"
        )
    ids, names, texts = zip(*entries.values(), strict=True)
    return CandidateSet(ids=ids, names=names, texts=texts, described="given", is_choice=True)


def free_text_description(words: str) -> str:
    """Format free text like the descriptions that the model was trained on.

    >>> free_text_description("exhausted T cell of a tumour")
    'cell type: exhausted T cell of a tumour. '
    """
    return words if words.lower().startswith("cell type:") else f"cell type: {words}. "


def unresolved_message(failed: Sequence[Resolution], ontology: Ontology) -> str:
    """Return an error message: labels that name no cell type, suggestions, and the fix."""
    shown = [f"{found.label!r}{_remark(found, ontology)}" for found in failed[:5]]
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    words = [found.label for found in failed if not _ID.fullmatch(found.label)]
    free = f", or write '{FREE_TEXT} {words[0]}' to use the words as they are" if words else ""
    return (
        f"{'a label matches' if len(failed) == 1 else f'{len(failed)} labels match'} no single Cell "
        f"Ontology term: {', '.join(shown)}{more}; give a name, synonym or CL id{free}"
    )


def _remark(found: Resolution, ontology: Ontology) -> str:
    near = " or ".join(
        f"{ontology.terms[each].name} ({each})"
        for each in found.suggestions
        if each not in NEVER_CALLED
    )
    if near:
        return f" (did you mean {near}?)"
    if _ID.fullmatch(found.label):
        return f" (no current term of release {ontology.release})"
    return ""


def read_labels(given: str) -> list[str]:
    """Read labels from a file, or from a string with semicolons between labels.

    A file has one label per line; empty lines and lines that begin with # are skipped. The
    separator of a string is a semicolon, because names in the Cell Ontology contain commas.

    Examples
    --------
    >>> read_labels("B cell; CD4-positive, alpha-beta T cell; CL:0000576")
    ['B cell', 'CD4-positive, alpha-beta T cell', 'CL:0000576']

    Raises
    ------
    FileNotFoundError
        If the string looks like a file name and there is no such file.
    ValueError
        If the file is not text.
    """
    path = Path(given)
    if ";" not in given and len(given) <= _LONGEST_PATH and path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file of labels in UTF-8: {error}") from error
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    # "NK/T cell" is a label: there is no folder NK.
    has_folder = "/" in given and path.parent.is_dir()
    if ";" not in given and (path.suffix in {".txt", ".tsv", ".csv", ".list"} or has_folder):
        raise FileNotFoundError(
            f"no file of labels {given}; to give labels instead of a file, separate them by ';'"
        )
    return [label.strip() for label in given.split(";") if label.strip()]


def label_list(given: str | Path | Sequence[str]) -> list[str]:
    """Return labels as a list: a string is one label, several with semicolons, or a file of them.

    >>> label_list("B cell"), label_list("B cell; T cell"), label_list(("B cell", "T cell"))
    (['B cell'], ['B cell', 'T cell'], ['B cell', 'T cell'])
    """
    return read_labels(str(given)) if isinstance(given, str | Path) else as_list(given)


def candidate_offsets(
    candidates: CandidateSet, features: np.ndarray, model: Embedder
) -> np.ndarray | None:
    """Return the offset to subtract from the similarity of each candidate, shape (n_candidates,).

    Only labels that a user chose for the cells get offsets (`ReferenceCells.label_offsets`), which
    make all of them equally likely on average. Return None for a whole ontology, and for a model
    without reference cells.
    """
    if model.reference is None or not candidates.is_choice:
        return None
    return model.reference.label_offsets(features, model.scale.item())


def candidate_features(candidates: CandidateSet, model: Embedder) -> np.ndarray:
    """Embed the candidates; text embeddings stored in the checkpoint are reused.

    The text tower is loaded only for texts that the checkpoint does not hold.

    Returns
    -------
    float32, unit norm, shape (n_candidates, embedding_dim)
    """
    stored = model.label_embeddings
    rows = {text: row for row, text in enumerate(stored.texts)} if stored else {}
    missing = [text for text in candidates.texts if text not in rows]
    # float16 like the stored ones: the embedding of a label does not depend on its source.
    fresh = iter(model.pool_texts(missing).astype(np.float16)) if missing else iter(())
    pooled = np.stack(
        [
            stored.pooled[rows[text]] if stored and text in rows else next(fresh)
            for text in candidates.texts
        ]
    )  # (n_candidates, text hidden size)
    return model.project_pooled(pooled.astype(np.float32))
