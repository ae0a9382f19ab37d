"""Cells and words in one space: annotate, embed and search single cells."""

import zeroshot as _zeroshot
from ontology import *
from pretrain import *
from zeroshot import *

from .public import *
from .runtime.version import __version__ as __version__

export = _zeroshot.write_export
pl = _zeroshot.plots
report = _zeroshot.write_report
