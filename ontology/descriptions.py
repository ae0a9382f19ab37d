"""Texts that describe a term: the template of the paper, several aspects at once, variants."""

from collections.abc import Mapping
from typing import Protocol

from ontology.graph import Ontology
from ontology.term import Term

# The aspects of a cell that CELLxGENE records, in the order of the text, and the ontologies whose
# ids each aspect may hold.
ASPECTS: Mapping[str, tuple[str, ...]] = {
    "cell type": ("CL",),
    "tissue": ("UBERON", "CL"),
    "disease": ("MONDO", "PATO"),
    "development stage": ("HsapDv",),
    "sex": ("PATO",),
    "assay": ("EFO",),
    "organism": ("NCBITaxon",),
    "ethnicity": ("HANCESTRO",),
}
# Names of common organisms: the bundled NCBITaxon has 1.3 million terms and takes 15 s to read.
COMMON_ORGANISMS = {
    "NCBITaxon:9606": "Homo sapiens",
    "NCBITaxon:10090": "Mus musculus",
    "NCBITaxon:10116": "Rattus norvegicus",
    "NCBITaxon:9544": "Macaca mulatta",
    "NCBITaxon:9483": "Callithrix jacchus",
    "NCBITaxon:7955": "Danio rerio",
}
# Values that files use for "unknown".
_UNKNOWN = frozenset({"", "na", "nan", "none", "unknown"})


class UniformGenerator(Protocol):
    """A random generator with `random()`, such as `numpy.random.Generator`."""

    def random(self) -> float:
        """Return a float drawn uniformly from [0, 1)."""


def describe(ontology: Ontology, term_id: str) -> str:
    """Return the text of a cell type in the paper's template.

    ``cell type: <name>. <definition>; ``, and ``cell type: <name>. `` without a definition
    (LangCell, Zhao et al. 2024; the form of its released scripts, the trailing space included).

    >>> describe(Ontology.bundled(), "CL:0000236")
    'cell type: B cell. A lymphocyte of B lineage that is capable of B cell mediated immunity.; '

    Raises
    ------
    KeyError
        If the id is unknown or obsolete.
    """
    return _block("cell type", _current_term(ontology, term_id))


def describe_aspects(
    aspects: Mapping[str, str],
    *,
    drop: float | Mapping[str, float] = 0.0,
    rng: UniformGenerator | None = None,
    ontologies: Mapping[str, Ontology] | None = None,
) -> str:
    """Return one text with several aspects of a cell: its type, tissue, disease and so on.

    Parameters
    ----------
    aspects
        Aspect (a key of `ASPECTS`) -> a term id of its ontology, or free text, which is not changed.
        Empty and "unknown" values are left out. "cell type" is required.
    drop
        Probability of leaving out an aspect: one for all, or one per aspect. The cell type is never
        dropped, so that texts with the cell type alone occur, as in zero-shot annotation.
    rng
        Random generator; required if ``drop`` is not zero.
    ontologies
        Ontology by prefix ("CL", "UBERON"); by default the bundled releases.

    An id that has a replacement gives the text of the replacement; an obsolete id without one gives
    its name alone.

    >>> describe_aspects({"cell type": "my cell", "tissue": "my organ"})
    'cell type: my cell. tissue: my organ. '

    Raises
    ------
    ValueError
        If an aspect is not one of `ASPECTS`, the cell type is missing, or `drop` is given without
        `rng`.
    KeyError
        If an id is unknown to its ontology.
    """
    _check_aspects(aspects, drop, rng)
    blocks = []
    for aspect in ASPECTS:
        value = str(aspects.get(aspect, "")).strip()
        if value.lower() in _UNKNOWN:
            continue
        if rng is not None and aspect != "cell type" and _is_dropped(aspect, drop, rng):
            continue
        blocks.append(_block(aspect, _aspect_term(aspect, value, ontologies or {})))
    return "".join(blocks)


def text_variants(ontology: Ontology, term_id: str) -> tuple[str, ...]:
    """Return several texts for a cell type, for training on more than one wording.

    In this order, without duplicates: the template (`describe`), the name alone, the template
    without a definition, the template with each exact synonym instead of the name, the definition
    alone.

    Raises
    ------
    KeyError
        If the id is unknown or obsolete.
    """
    term = _current_term(ontology, term_id)
    texts = [
        _block("cell type", term),
        term.name,
        f"cell type: {term.name}. ",
        *(_block("cell type", term, name=synonym) for synonym in term.synonyms),
        term.definition,
    ]
    return tuple(dict.fromkeys(text for text in texts if text))


def _block(aspect: str, term: Term, name: str = "") -> str:
    """Format one aspect with the template of the paper."""
    text = f"{aspect}: {name or term.name}. "
    return f"{text}{term.definition}; " if term.definition else text


def _current_term(ontology: Ontology, term_id: str) -> Term:
    return ontology.terms[ontology.check(term_id)]


def _check_aspects(
    aspects: Mapping[str, str],
    drop: float | Mapping[str, float],
    rng: UniformGenerator | None,
) -> None:
    named = drop.keys() if isinstance(drop, Mapping) else ()
    unknown = [aspect for aspect in (*aspects, *named) if aspect not in ASPECTS]
    if unknown:
        raise ValueError(f"unknown aspect {unknown[0]!r}; must be one of {', '.join(ASPECTS)}")
    if str(aspects.get("cell type", "")).strip().lower() in _UNKNOWN:
        raise ValueError("aspects must have a value for 'cell type'")
    if drop and rng is None:
        raise ValueError(f"drop={drop} needs a random generator: pass rng=")


def _is_dropped(aspect: str, drop: float | Mapping[str, float], rng: UniformGenerator) -> bool:
    chance = drop.get(aspect, 0.0) if isinstance(drop, Mapping) else drop
    # Drawn for every aspect, so that a seed gives the same random numbers at any `drop`.
    return rng.random() < chance


def _aspect_term(aspect: str, value: str, ontologies: Mapping[str, Ontology]) -> Term:
    """Return the term of an id; free text becomes a term with only a name."""
    prefix = value.split(":")[0]
    if value in COMMON_ORGANISMS and "NCBITaxon" not in ontologies:
        return Term(id=value, name=COMMON_ORGANISMS[value])
    if ":" not in value or " " in value or prefix not in ASPECTS[aspect]:
        return Term(id="", name=value)
    ontology = ontologies.get(prefix) or Ontology.bundled(prefix)
    current = ontology.current(value)
    if current is None and value in ontology.terms:
        # Published files keep ids that have become obsolete, such as "adult stage".
        return Term(id=value, name=ontology.terms[value].name.removeprefix("obsolete "))
    return _current_term(ontology, current or value)
