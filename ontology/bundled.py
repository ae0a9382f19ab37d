"""Read the ontology releases that are bundled with cellxgene-ontology-guide, offline."""

from functools import cache
from typing import Any

from cellxgene_ontology_guide.supported_versions import CXGSchema

from ontology.term import OntologySource, Term, clean_definition, clean_release

# The package merges is_a with part_of when it computes ancestors, so only one relation is available.
# In CL it is almost always is_a; in UBERON the parts of an organ are its descendants.
MERGED = "is_a or part_of"


@cache
def read_bundled(prefix: str) -> OntologySource:
    """Read the latest release of an ontology in the installed package.

    Parameters
    ----------
    prefix
        Ontology: CL, UBERON, MONDO, HsapDv, EFO, HANCESTRO, PATO or NCBITaxon (large: takes 15
        seconds and some gigabytes of memory).

    Returns
    -------
    The terms. Parents are the ancestors at distance one, synonyms the exact ones (the package drops
    all others).

    Raises
    ------
    ValueError
        If the package has no ontology with this prefix.
    """
    schema = CXGSchema()
    if prefix not in schema.supported_ontologies:
        known = ", ".join(sorted(schema.supported_ontologies))
        raise ValueError(f"no bundled ontology {prefix!r}; available: {known}")
    records = schema.ontology(prefix)
    return OntologySource(
        name=prefix,
        release=clean_release(schema.supported_ontologies[prefix]["version"]),
        relations=(MERGED,),
        terms={term_id: _term(term_id, record) for term_id, record in records.items()},
    )


def _term(term_id: str, record: dict[str, Any]) -> Term:
    parents = (ancestor for ancestor, edges in record["ancestors"].items() if edges == 1)
    return Term(
        id=term_id,
        name=record["label"],
        definition=clean_definition(record.get("description", "")),
        synonyms=tuple(record.get("synonyms", ())),
        parents=tuple(sorted(parents)),
        is_obsolete=record["deprecated"],
        replaced_by=record.get("replaced_by"),
        consider=tuple(record.get("consider", ())),
    )
