"""The words that describe a term: the paper's template, several aspects at once, variants."""

from collections.abc import Mapping
from typing import Protocol

from ontology.graph import Ontology
from ontology.term import Term

# The aspects of a cell's identity that CELLxGENE records, in the order in which a text names them,
# with the ontologies whose ids each may hold.
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
# The bundled NCBITaxon has 1.3 million terms and takes a quarter of a minute: not for these.
COMMON_ORGANISMS = {
    "NCBITaxon:9606": "Homo sapiens",
    "NCBITaxon:10090": "Mus musculus",
    "NCBITaxon:10116": "Rattus norvegicus",
    "NCBITaxon:9544": "Macaca mulatta",
    "NCBITaxon:9483": "Callithrix jacchus",
    "NCBITaxon:7955": "Danio rerio",
}
# What files write where nothing is known.
_UNKNOWN = frozenset({"", "na", "nan", "none", "unknown"})


class UniformGenerator(Protocol):
    """What dropout needs of a random generator: `numpy.random.Generator` has it."""

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
    return _block("cell type", _live_term(ontology, term_id))


def describe_aspects(
    aspects: Mapping[str, str],
    *,
    drop: float | Mapping[str, float] = 0.0,
    rng: UniformGenerator | None = None,
    ontologies: Mapping[str, Ontology] | None = None,
) -> str:
    """Return one text of several aspects of a cell's identity.

    Parameters
    ----------
    aspects
        Aspect (a key of `ASPECTS`) -> a term id of its ontology, or free text, taken as it stands.
        Empty and "unknown" values are left out. "cell type" must be there.
    drop
        Chance of leaving out an aspect, one for all or one for each. The cell type never is, so
        that a bare cell type is among the texts, as zero-shot needs.
    rng
        Source of chance; wanted where ``drop`` is not zero.
    ontologies
        Ontology by prefix ("CL", "UBERON"); the bundled releases stand in for those not given.

    An id that is replaced gives the text of its replacement, one that is obsolete its name alone.

    >>> describe_aspects({"cell type": "my cell", "tissue": "my organ"})
    'cell type: my cell. tissue: my organ. '

    Raises
    ------
    ValueError
        If an aspect is not one of `ASPECTS`, the cell type is missing, or drop comes without rng.
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
    """Return the texts for a cell type, for training on more than one wording.

    In order and without repetition: the template (`describe`), the name alone, the template
    without a definition, the template with each exact synonym in the place of the name, the
    definition alone.

    Raises
    ------
    KeyError
        If the id is unknown or obsolete.
    """
    term = _live_term(ontology, term_id)
    texts = [
        _block("cell type", term),
        term.name,
        f"cell type: {term.name}. ",
        *(_block("cell type", term, name=synonym) for synonym in term.synonyms),
        term.definition,
    ]
    return tuple(dict.fromkeys(text for text in texts if text))


def _block(aspect: str, term: Term, name: str = "") -> str:
    """Write one aspect in the template of the paper."""
    text = f"{aspect}: {name or term.name}. "
    return f"{text}{term.definition}; " if term.definition else text


def _live_term(ontology: Ontology, term_id: str) -> Term:
    return ontology.terms[ontology.check(term_id)]


def _check_aspects(
    aspects: Mapping[str, str],
    drop: float | Mapping[str, float],
    rng: UniformGenerator | None,
) -> None:
    named = drop.keys() if isinstance(drop, Mapping) else ()
    unknown = [aspect for aspect in (*aspects, *named) if aspect not in ASPECTS]
    if unknown:
        raise ValueError(f"no aspect {unknown[0]!r}; there are {', '.join(ASPECTS)}")
    if str(aspects.get("cell type", "")).strip().lower() in _UNKNOWN:
        raise ValueError("a text needs a cell type: aspects has none under 'cell type'")
    if drop and rng is None:
        raise ValueError(f"drop={drop} needs a random generator: pass rng=")


def _is_dropped(aspect: str, drop: float | Mapping[str, float], rng: UniformGenerator) -> bool:
    chance = drop.get(aspect, 0.0) if isinstance(drop, Mapping) else drop
    # Drawn for each aspect that is there, so that a seed means the same at any rate.
    return rng.random() < chance


def _aspect_term(aspect: str, value: str, ontologies: Mapping[str, Ontology]) -> Term:
    """Return the term of an id, or free text as a term with a name alone."""
    prefix = value.split(":")[0]
    if value in COMMON_ORGANISMS and "NCBITaxon" not in ontologies:
        return Term(id=value, name=COMMON_ORGANISMS[value])
    if ":" not in value or " " in value or prefix not in ASPECTS[aspect]:
        return Term(id="", name=value)
    ontology = ontologies.get(prefix) or Ontology.bundled(prefix)
    current = ontology.current(value)
    if current is None and value in ontology.terms:
        # Published files outlive terms: "adult stage" is still what the donor was.
        return Term(id=value, name=ontology.terms[value].name.removeprefix("obsolete "))
    return _live_term(ontology, current or value)
