"""Convert calls to obs columns and uns entries for the Cell Annotation Platform (CAP).

Names follow docs/cap_anndata_schema.md 1.0.0 in cellannotation/cell-annotation-schema.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ontology.graph import Ontology
from zeroshot.export.cas import NOT_AVAILABLE, Genes, Publication, annotations, labelset
from zeroshot.results.read_calls import WrittenCalls

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (
    "cell_fullname",
    "cell_ontology_term_id",
    "cell_ontology_term",
    "rationale",
    "rationale_dois",
    "marker_gene_evidence",
    "canonical_marker_genes",
    "synonyms",
    "category_fullname",
    "category_cell_ontology_term_id",
    "category_cell_ontology_term",
)
FLAGS = ("cell_ontology_exists", "category_cell_ontology_exists")


def column_names(labelset_name: str) -> list[str]:
    """Return the obs columns of a labelset.

    >>> column_names("mine")[:2]
    ['mine', 'mine--cell_fullname']
    """
    return [labelset_name, *(f"{labelset_name}--{each}" for each in (*TEXTS, *FLAGS))]


def cap_columns(
    calls: WrittenCalls, ontology: Ontology, name: str, *, evidence: Genes
) -> dict[str, Any]:
    """Return the obs columns, as Categorical or boolean arrays; "NA" stands for missing values.

    Parameters
    ----------
    calls: calls of all cells
    ontology: a Cell Ontology release
    name: name of the labelset
    evidence: genes that raise each call
    """
    codes = np.zeros(len(calls), dtype=np.int32)
    fields = []
    for row, (annotation, cells) in enumerate(annotations(calls, ontology, evidence)):
        codes[cells] = row
        fields.append(annotation)
    columns: dict[str, Any] = {name: _categorical([each["cell_label"] for each in fields], codes)}
    for key in TEXTS:
        values = [_text(each.get(key)) for each in fields]
        columns[f"{name}--{key}"] = _categorical(values, codes)
    for key in FLAGS:
        columns[f"{name}--{key}"] = np.array([bool(each.get(key)) for each in fields])[codes]
    return columns


def cap_notes(calls: WrittenCalls, name: str, publication: Publication) -> dict[str, Any]:
    """Return the uns entries."""
    described = labelset(calls)
    entry = {
        "description": described["description"],
        "annotation_method": described["annotation_method"],
        **described["automated_annotation"],
        "reference_location": NOT_AVAILABLE,
        "reference_description": NOT_AVAILABLE,
    }
    return {**publication.fields(), "cellannotation_metadata": {name: entry}}


def _text(value: Any) -> str:
    if value is None:
        return NOT_AVAILABLE
    return ", ".join(value) if isinstance(value, list) else str(value)


def _categorical(values: list[str], codes: np.ndarray) -> "pd.Categorical":
    """Expand one value per label to one per cell."""
    import pandas as pd

    categories, index = np.unique(np.array(values, dtype=object), return_inverse=True)
    return pd.Categorical.from_codes(index[codes], categories=categories)
