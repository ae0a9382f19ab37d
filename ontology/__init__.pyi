"""Cell Ontology: its terms, their hierarchy, names and descriptions. Does not import torch."""

from .candidates import NEVER_CALLED as NEVER_CALLED
from .candidates import all_cell_types as all_cell_types
from .descriptions import describe as describe
from .descriptions import describe_aspects as describe_aspects
from .descriptions import text_variants as text_variants
from .graph import Ontology as Ontology
from .labels import LabelResolver as LabelResolver
from .labels import Resolution as Resolution
from .term import Term as Term
from .tissues import TissueMap as TissueMap
