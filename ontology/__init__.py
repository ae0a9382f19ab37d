"""Cell Ontology terms, their order and their words. Never imports torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ontology.candidates import NEVER_CALLED as NEVER_CALLED
    from ontology.candidates import all_cell_types as all_cell_types
    from ontology.descriptions import describe as describe
    from ontology.descriptions import describe_aspects as describe_aspects
    from ontology.descriptions import text_variants as text_variants
    from ontology.graph import Ontology as Ontology
    from ontology.labels import LabelResolver as LabelResolver
    from ontology.labels import Resolution as Resolution
    from ontology.term import Term as Term
    from ontology.tissues import TissueMap as TissueMap

# Exported name -> module that defines it. Importing the package imports none of them (PEP 562).
_HOMES = {
    "LabelResolver": "ontology.labels",
    "NEVER_CALLED": "ontology.candidates",
    "Ontology": "ontology.graph",
    "Resolution": "ontology.labels",
    "Term": "ontology.term",
    "TissueMap": "ontology.tissues",
    "all_cell_types": "ontology.candidates",
    "describe": "ontology.descriptions",
    "describe_aspects": "ontology.descriptions",
    "text_variants": "ontology.descriptions",
}
__all__ = [
    "NEVER_CALLED",
    "LabelResolver",
    "Ontology",
    "Resolution",
    "Term",
    "TissueMap",
    "all_cell_types",
    "describe",
    "describe_aspects",
    "text_variants",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ontology' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
