"""All cell types that a cell of human tissue may be called."""

import re
from functools import cache
from importlib.resources import files

from ontology.graph import Ontology

ROOT = "CL:0000000"
# Too general to be an answer: cell, eukaryotic cell, Eumycetozoan cell, animal cell (obsolete in
# recent releases, which keep its id).
NEVER_CALLED = frozenset({ROOT, "CL:0000255", "CL:0000257", "CL:0000548"})
# How CL names the cells of one taxon that humans are not part of: "(Mmus)", "(sensu Nematoda)",
# "natural killer cell, mouse". "(sensu Vertebrata)" and "(Primate)" do hold for humans.
OTHER_SPECIES = re.compile(r"\(Mmus\)|\(sensu (?!Vertebrata)[^)]*\)|, mouse$")


@cache
def excluded_branches() -> dict[str, str]:
    """Return the branches that annotation of animal tissue never means: root id -> reason.

    They are the rows of ``ontology/data/excluded_branches.tsv``.
    """
    return _reasons("excluded_branches.tsv")


@cache
def groupings() -> dict[str, str]:
    """Return the terms that put unlike cell types together, such as "nucleate cell": id -> reason.

    They are the rows of ``ontology/data/groupings.tsv``: true of a cell, and no answer to what it
    is. Backing off passes over them.
    """
    return _reasons("groupings.tsv")


def _reasons(name: str) -> dict[str, str]:
    table = (files("ontology") / "data" / name).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return {term_id: reason for term_id, _name, reason in rows}


def all_cell_types(ontology: Ontology) -> tuple[str, ...]:
    """Return the ids of all cell types of a Cell Ontology release that may be called, sorted.

    They are the live descendants of the root cell term, without the excluded branches, without
    `NEVER_CALLED` and without terms that name another species (`OTHER_SPECIES`): the models read
    human cells. Cell parts ("reniform nucleus") and the terms of other ontologies in an .obo
    file are no descendants of the root and so never among them.
    """
    excluded = set(NEVER_CALLED)
    for branch in excluded_branches():
        if branch in ontology.index:  # an older release may lack a branch
            excluded |= ontology.descendants(branch) | {branch}
    return tuple(
        sorted(
            term_id
            for term_id in ontology.descendants(ROOT) - excluded
            if not OTHER_SPECIES.search(ontology.terms[term_id].name)
        )
    )
