"""Cells and words in one space: annotate, embed and search single cells."""

from ontology import *
from pretrain import *
from zeroshot import *

from .public import *
from .runtime.version import __version__ as __version__
