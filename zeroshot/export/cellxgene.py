"""Convert calls to the cell type column of the CELLxGENE schema."""

import numpy as np

from ontology.candidates import NEVER_CALLED, ROOT
from ontology.graph import Ontology
from zeroshot.confidence.backoff import UNKNOWN

# obs.columns.cell_type_ontology_term_id of schema 7.1.0, from schema_definition.yaml in the package
# cellxgene-schema 7.1.2. Its terms of other ontologies are for other organisms.
SCHEMA_VERSION = "7.1.0"
FORBIDDEN = frozenset({"CL:0000255", "CL:0000257", "CL:0000548"})
EXCEPTIONS = frozenset({UNKNOWN})
COLUMN = "cell_type_ontology_term_id"
RESERVED = "cell_type"  # CELLxGENE adds this column and rejects files that have it


def cell_type_ids(
    term_ids: np.ndarray, ontology: Ontology, in_tissue: np.ndarray | None = None
) -> np.ndarray:
    """Return the value of the column for each call: the term id, or "unknown".

    "unknown" replaces free text, terms that the schema forbids, terms that are too general, and
    spots of a slide that are not covered by tissue.

    Parameters
    ----------
    term_ids: id of each call, '' for none, object, shape (n_cells,)
    ontology: a Cell Ontology release
    in_tissue: False for spots without tissue, shape (n_cells,)

    Returns
    -------
    object, shape (n_cells,)
    """
    distinct, index = np.unique(term_ids.astype(str), return_inverse=True)
    valid = [
        UNKNOWN if each in NEVER_CALLED or violations(each, ontology) else each for each in distinct
    ]
    values = np.array(valid, dtype=object)[index]
    return values if in_tissue is None else np.where(in_tissue, values, UNKNOWN)


def violations(value: str, ontology: Ontology) -> list[str]:
    """Return how a value of the column violates the schema; [] if it is valid."""
    if value in EXCEPTIONS:
        return []
    if value not in ontology.terms:
        return [f"{value!r} is no term of {ontology.title}, and not {UNKNOWN!r}"]
    if ontology.terms[value].is_obsolete:
        return [f"{value} is deprecated"]
    found = [f"{value} is forbidden"] if value in FORBIDDEN else []
    if value != ROOT and ROOT not in ontology.ancestors(value):
        found.append(f"{value} is no cell type: {ROOT} is not among its ancestors")
    return found
