"""Agreement of an answer with an expert's name: 1, 0.5 or 0, as in GPTCelltype.

Hou and Ji 2024, Nature Methods 21:1462. Full: the same Cell Ontology terms, or the same wording.
Partial: their broad types overlap, or a related broad type of one overlaps those of the other. The
rule reproduces all 5,461 recorded agreements of the paper's table.
"""

import re
from collections.abc import Mapping

from benchmarks.data.named_answers import Answer

_MALIGNANT = frozenset({"malignant cell"})
# Related broad types. The paper lists 46 pairs, but its code uses only the first pair of each type.
RELATIVES: Mapping[str, str] = {
    "antigen presenting cell": "b cell",
    "astrocyte": "glial cell",
    "b cell": "antigen presenting cell",
    "dendritic cell": "antigen presenting cell",
    "endothelial cell": "epithelial cell",
    "epithelial cell": "endothelial cell",
    "erythroid cell": "myeloid cell",
    "fat cell": "stromal cell",
    "fibroblast": "stromal cell",
    "glial cell": "astrocyte",
    "granulocyte": "immune cell",
    "immune cell": "b cell",
    "innate lymphoid cell": "immune cell",
    "leukocyte": "b cell",
    "lymphocyte": "b cell",
    "macroglial cell": "astrocyte",
    "macrophage/monocyte": "antigen presenting cell",
    "megakaryocyte": "platelet",
    "microglia": "glial cell",
    "myeloid cell": "erythroid cell",
    "oligodendrocyte": "glial cell",
    "osteoblast": "stromal cell",
    "pericyte": "stromal cell",
    "platelet": "megakaryocyte",
    "radial glial cell": "glial cell",
    "stromal cell": "fibroblast",
    "t/nk cell": "immune cell",
}


def agreement(truth: Answer, answer: Answer) -> float:
    """Score an answer against that of an expert: 1, 0.5 or 0.

    >>> cell = Answer(label="B cells", terms=frozenset({"CL:0000236"}), broad=frozenset({"b cell"}))
    >>> agreement(cell, Answer(label="B cell")), agreement(cell, Answer(label="lymphoid"))
    (1.0, 0.0)
    """
    same_terms = bool(truth.terms) and truth.terms == answer.terms
    same_words = _words(truth.label) == _words(answer.label)
    if same_terms or same_words or (truth.broad == _MALIGNANT == answer.broad):
        return 1.0
    return 0.5 if _near(truth.broad) & _near(answer.broad) else 0.0


def _near(broad: frozenset[str]) -> frozenset[str]:
    return broad | {RELATIVES[each] for each in broad if each in RELATIVES}


def _words(label: str) -> str:
    return re.sub("s$", "", label.lower())
