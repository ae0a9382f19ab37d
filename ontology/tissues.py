"""Resolve tissues by name, and find the cell types that may occur in a tissue."""

from collections.abc import Mapping
from functools import cached_property

from cellxgene_ontology_guide.curated_ontology_term_lists import get_curated_ontology_term_list
from cellxgene_ontology_guide.entities import CuratedOntologyTermList

from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from ontology.labels import LabelResolver, Resolution
from ontology.term import Term
from ontology.wording import normalise

# Organs that are missing in CELLxGENE's list: testis, prostate, adrenal gland, ureter, urethra.
_MORE_ORGANS = frozenset(
    ["UBERON:0000473", "UBERON:0002367", "UBERON:0002369", "UBERON:0000056", "UBERON:0000057"]
)
# Entries of the list that occur in all organs: blood and adipose tissue.
_PERVADING = frozenset(["UBERON:0000178", "UBERON:0001013"])
# Relations in an .obo file from a cell type to the structure that contains it.
_LOCATED = frozenset({"part_of", "has_soma_location", "located_in"})
_HEMATOPOIETIC = "CL:0000988"
_MAX_ORGANS = 2  # a type whose definition lists more organs is widespread
_MAX_SUBTYPES = 10  # for types with more subtypes the organs in the definition are ignored
_MAX_NAME_WORDS = 6  # longer names of structures do not occur in definitions


class TissueMap:
    """Organs of each cell type, from its term in the Cell Ontology.

    An .obo file has relations from cell types to UBERON, which give the organs. The bundled release
    has no such relations; the organs are then those of the structures named in a type's name or in
    the first sentence of its definition, a heuristic that works for most types. Hematopoietic cells
    migrate and have no organ. A type without organs of its own has those of its parents.

    Parameters
    ----------
    cell_types
        A Cell Ontology release.
    anatomy
        UBERON; by default the bundled release, whose ancestors include wholes and supertypes.
    """

    def __init__(self, cell_types: Ontology, anatomy: Ontology | None = None) -> None:
        self.cell_types = cell_types
        self._anatomy = anatomy or Ontology.bundled("UBERON")

    def resolve(self, tissue: str) -> Resolution:
        """Resolve the id, name or synonym of a tissue with `LabelResolver`."""
        return self._resolver.resolve([tissue])[0]

    def check(self, tissue: str) -> str:
        """Return the UBERON id of a tissue, given its id, name or synonym.

        Raises
        ------
        ValueError
            If the tissue is unknown or ambiguous; the message suggests similar names.
        """
        resolution = self.resolve(tissue)
        if resolution.term_id is None:
            near = ", ".join(f"{self.name(each)} ({each})" for each in resolution.suggestions)
            raise ValueError(
                f"tissue {tissue!r} is {resolution.how} in {self._anatomy.title}"
                + (f"; did you mean {near}?" if near else "; pass an UBERON name or id")
            )
        return resolution.term_id

    def name(self, tissue: str) -> str:
        """Return the name of an UBERON id."""
        return self._anatomy.terms[tissue].name

    def plausible_cell_types(self, tissue: str) -> tuple[str, ...]:
        """Return the cell types that may occur in a tissue, sorted.

        Left out are the cell types whose organs are all other ones; types without an organ, such as
        the fibroblast, may occur anywhere.

        Parameters
        ----------
        tissue
            An UBERON id, or a name that resolves to one.

        Raises
        ------
        ValueError
            If the tissue does not resolve; the message suggests similar names.
        """
        tissue = self.check(tissue)
        candidates = all_cell_types(self.cell_types)
        here = self.organs_of_tissue(tissue)
        if not here and not self.pervades(tissue):
            return candidates  # "mucosa" is in no single organ and contains none
        organs = {term_id: self.organs(term_id) for term_id in candidates}
        return tuple(
            term_id for term_id in candidates if not organs[term_id] or organs[term_id] & here
        )

    def organs(self, term_id: str) -> frozenset[str]:
        """Return the UBERON ids of the organs of a cell type; empty if it has none."""
        if term_id in self._hematopoietic:
            return frozenset()
        if term_id not in self._organs:
            own = self._own_organs(self.cell_types.terms[self.cell_types.check(term_id)])
            inherited = [self.organs(parent) for parent in self.cell_types.parents(term_id)]
            self._organs[term_id] = own or frozenset().union(*inherited)
        return self._organs[term_id]

    def pervades(self, tissue: str) -> bool:
        """Tell whether a tissue occurs in all organs, as blood and adipose tissue do."""
        return bool((self._anatomy.ancestors(tissue) | {tissue}) & _PERVADING)

    def _own_organs(self, term: Term) -> frozenset[str]:
        related = [target for relation, target in term.related if relation in _LOCATED]
        if related:
            return self._organs_containing(related)
        named = self._organs_containing(self._mentioned(term.name))
        if named or len(self.cell_types.descendants(term.id)) > _MAX_SUBTYPES:
            return named
        organs = self._organs_containing(self._mentioned(term.definition.split(". ")[0]))
        return organs if len(organs) <= _MAX_ORGANS else frozenset()

    def organs_of_tissue(self, tissue: str) -> frozenset[str]:
        """Return the organs that contain a tissue; for an organ system, the organs in it."""
        organs = self._organs_containing([tissue])
        return organs or self._anatomy.descendants(tissue) & self._all_organs

    def _organs_containing(self, structures: list[str]) -> frozenset[str]:
        known = [i for i in structures if i in self._anatomy.index]
        return (
            frozenset().union(*((self._anatomy.ancestors(i) | {i}) for i in known))
            & self._all_organs
        )

    def _mentioned(self, text: str) -> list[str]:
        """Return the ids of the structures that a text names; of nested names the longest."""
        words = normalise(text).split()
        ids, start = [], 0
        while start < len(words):
            step = 1
            for end in range(min(start + _MAX_NAME_WORDS, len(words)), start, -1):
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
    def _hematopoietic(self) -> frozenset[str]:
        known = _HEMATOPOIETIC in self.cell_types.index
        return self.cell_types.descendants(_HEMATOPOIETIC) if known else frozenset()

    @cached_property
    def _resolver(self) -> LabelResolver:
        return LabelResolver(self._anatomy)
