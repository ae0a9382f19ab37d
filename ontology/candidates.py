"""The candidate labels: all cell types that a cell of human tissue may be called."""

import re
from functools import cache
from importlib.resources import files

from ontology.graph import Ontology

ROOT = "CL:0000000"
# Too general as a label: cell, eukaryotic cell, Eumycetozoan cell, animal cell (obsolete in recent
# releases, which keep its id).
NEVER_CALLED = frozenset({ROOT, "CL:0000255", "CL:0000257", "CL:0000548"})
# Names of cells of a non-human taxon in CL: "(Mmus)", "(sensu Nematoda)", "natural killer cell,
# mouse". "(sensu Vertebrata)" and "(Primate)" include humans.
OTHER_SPECIES = re.compile(r"\(Mmus\)|\(sensu (?!Vertebrata)[^)]*\)|, mouse$")


@cache
def excluded_branches() -> dict[str, str]:
    """Return the branches that are never candidates for animal tissue: root id -> reason.

    Read from ``ontology/data/excluded_branches.tsv``.
    """
    return _reasons("excluded_branches.tsv")


@cache
def groupings() -> dict[str, str]:
    """Return the terms that group unrelated cell types, such as "nucleate cell": id -> reason.

    Read from ``ontology/data/groupings.tsv``. Such a term may be true of a cell but does not say
    what type it is, so back-off skips it.
    """
    return _reasons("groupings.tsv")


def _reasons(name: str) -> dict[str, str]:
    table = (files("ontology") / "data" / name).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return {term_id: reason for term_id, _name, reason in rows}


def all_cell_types(ontology: Ontology) -> tuple[str, ...]:
    """Return the ids of all candidate cell types of a Cell Ontology release, sorted.

    These are the current descendants of the root term "cell", without the excluded branches,
    `NEVER_CALLED` and terms that name another species (`OTHER_SPECIES`), since the models are for
    human cells. Cell parts ("reniform nucleus") and terms of other ontologies in an .obo file are
    not descendants of the root, so they are never included.
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
