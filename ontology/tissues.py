"""Tissues by name, and the cell types that a tissue may hold."""

from collections.abc import Mapping
from functools import cached_property

from cellxgene_ontology_guide.curated_ontology_term_lists import get_curated_ontology_term_list
from cellxgene_ontology_guide.entities import CuratedOntologyTermList

from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from ontology.labels import LabelResolver, Resolution
from ontology.term import Term
from ontology.wording import normalise

# Organs that CELLxGENE's list lacks: testis, prostate, adrenal gland, ureter, urethra.
_MORE_ORGANS = frozenset(
    ["UBERON:0000473", "UBERON:0002367", "UBERON:0002369", "UBERON:0000056", "UBERON:0000057"]
)
# Those of its list that run through the others: blood and adipose tissue.
_PERVADING = frozenset(["UBERON:0000178", "UBERON:0001013"])
# Relations from a cell type to the structure that holds it, in an .obo file.
_LOCATED = frozenset({"part_of", "has_soma_location", "located_in"})
_HEMATOPOIETIC = "CL:0000988"
_MOST_ORGANS = 2  # a definition that lists more says that the type is widespread
_MOST_KINDS = 10  # a type with more kinds is of no one organ, whatever its definition cites
_LONGEST_NAME = 6  # words; longer names of structures do not occur in definitions


class TissueMap:
    """Cell types by the organs that their terms name.

    Where the Cell Ontology source keeps relations to UBERON apart (an .obo file), those bind a
    type to an organ. The bundled release has none: there the structures that a type's name or the
    first sentence of its definition mentions stand in for them, which finds most and proves
    nothing. Hematopoietic cells wander and are bound to none. A type without a bond of its own
    has those of its parents.

    Parameters
    ----------
    cell_types
        A Cell Ontology release.
    anatomy
        UBERON; the bundled release by default, whose ancestors hold parts as well as kinds.
    """

    def __init__(self, cell_types: Ontology, anatomy: Ontology | None = None) -> None:
        self.cell_types = cell_types
        self._anatomy = anatomy or Ontology.bundled("UBERON")

    def resolve(self, tissue: str) -> Resolution:
        """Resolve a tissue's id, name or synonym as `LabelResolver` does, without guessing."""
        return self._resolver.resolve([tissue])[0]

    def check(self, tissue: str) -> str:
        """Return the UBERON id of a tissue's id, name or synonym.

        Raises
        ------
        ValueError
            If there is none or not one; the line names what comes near.
        """
        resolution = self.resolve(tissue)
        if resolution.term_id is None:
            near = ", ".join(f"{self.name(each)} ({each})" for each in resolution.suggestions)
            raise ValueError(
                f"tissue {tissue!r} is {resolution.how} in {self._anatomy.title}"
                + (f"; near it: {near}" if near else "; give an UBERON name or id")
            )
        return resolution.term_id

    def name(self, tissue: str) -> str:
        """Return the name of an UBERON id."""
        return self._anatomy.terms[tissue].name

    def plausible_cell_types(self, tissue: str) -> tuple[str, ...]:
        """Return the cell types that a tissue may hold, sorted.

        They are all cell types but those bound to other organs alone: a fibroblast may be anywhere.

        Parameters
        ----------
        tissue
            An UBERON id, or a name that resolves to one.

        Raises
        ------
        ValueError
            If the tissue does not resolve; the line names what comes near.
        """
        tissue = self.check(tissue)
        candidates = all_cell_types(self.cell_types)
        here = self.organs_of_tissue(tissue)
        if not here and not self.pervades(tissue):
            return candidates  # "mucosa" is in no one organ and holds none
        bonds = {term_id: self.organs(term_id) for term_id in candidates}
        return tuple(
            term_id for term_id in candidates if not bonds[term_id] or bonds[term_id] & here
        )

    def organs(self, term_id: str) -> frozenset[str]:
        """Return the UBERON ids of the organs that a cell type is bound to; empty for no bond."""
        if term_id in self._wandering:
            return frozenset()
        if term_id not in self._organs:
            own = self._own_organs(self.cell_types.terms[self.cell_types.check(term_id)])
            above = [self.organs(parent) for parent in self.cell_types.parents(term_id)]
            self._organs[term_id] = own or frozenset().union(*above)
        return self._organs[term_id]

    def pervades(self, tissue: str) -> bool:
        """Tell whether a tissue runs through the organs, as blood and adipose tissue do."""
        return bool((self._anatomy.ancestors(tissue) | {tissue}) & _PERVADING)

    def _own_organs(self, term: Term) -> frozenset[str]:
        related = [target for relation, target in term.related if relation in _LOCATED]
        if related:
            return self._organs_above(related)
        named = self._organs_above(self._mentioned(term.name))
        if named or len(self.cell_types.descendants(term.id)) > _MOST_KINDS:
            return named
        organs = self._organs_above(self._mentioned(term.definition.split(". ")[0]))
        return organs if len(organs) <= _MOST_ORGANS else frozenset()

    def organs_of_tissue(self, tissue: str) -> frozenset[str]:
        """Return the organs that an UBERON id is part of; of a whole system those that it holds."""
        return self._organs_above([tissue]) or self._anatomy.descendants(tissue) & self._all_organs

    def _organs_above(self, structures: list[str]) -> frozenset[str]:
        known = [i for i in structures if i in self._anatomy.index]
        return (
            frozenset().union(*((self._anatomy.ancestors(i) | {i}) for i in known))
            & self._all_organs
        )

    def _mentioned(self, text: str) -> list[str]:
        """Ids of the structures that a text names; of nested names the longest."""
        words = normalise(text).split()
        ids, start = [], 0
        while start < len(words):
            step = 1
            for end in range(min(start + _LONGEST_NAME, len(words)), start, -1):
                term_id = self._structure_names.get(" ".join(words[start:end]))
                if term_id:
                    ids.append(term_id)
                    step = end - start
                    break
            start += step
        return ids

    @cached_property
    def _organs(self) -> dict[str, frozenset[str]]:
        return {}

    @cached_property
    def _all_organs(self) -> frozenset[str]:
        curated = get_curated_ontology_term_list(CuratedOntologyTermList.ORGAN)
        return (_MORE_ORGANS.union(curated) - _PERVADING).intersection(self._anatomy.index)

    @cached_property
    def _structure_names(self) -> Mapping[str, str]:
        return {normalise(self._anatomy.terms[i].name): i for i in self._anatomy.ids}

    @cached_property
    def _wandering(self) -> frozenset[str]:
        known = _HEMATOPOIETIC in self.cell_types.index
        return self.cell_types.descendants(_HEMATOPOIETIC) if known else frozenset()

    @cached_property
    def _resolver(self) -> LabelResolver:
        return LabelResolver(self._anatomy)
