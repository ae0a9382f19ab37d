"""The releases inside cellxgene-ontology-guide, read offline."""

from functools import cache
from typing import Any

from cellxgene_ontology_guide.supported_versions import CXGSchema

from ontology.term import OntologySource, Term, clean_definition, clean_release

# The package merges is_a with part_of before it takes ancestors: one relation reaches us. Inside CL
# almost all of it is is_a; in UBERON an organ's parts stand below the organ.
MERGED = "is_a or part_of"


@cache
def read_bundled(prefix: str) -> OntologySource:
    """Read the release that the installed package calls latest.

    Parameters
    ----------
    prefix
        Which ontology: CL, UBERON, MONDO, HsapDv, EFO, HANCESTRO, PATO, NCBITaxon (large: a
        quarter of a minute and some gigabytes).

    Returns
    -------
    Terms whose parents are the ancestors at distance one and whose synonyms are the exact ones
    (the package drops the others and all scopes).

    Raises
    ------
    ValueError
        If the package has no ontology of that prefix.
    """
    schema = CXGSchema()
    if prefix not in schema.supported_ontologies:
        known = ", ".join(sorted(schema.supported_ontologies))
        raise ValueError(f"no bundled ontology {prefix!r}; there are {known}")
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
