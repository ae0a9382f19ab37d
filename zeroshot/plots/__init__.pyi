"""Figures of annotated cells, in the manner of `scanpy.pl`."""

from .figures import composition as composition
from .figures import confusion as confusion
from .figures import reliability as reliability
from .figures import umap as umap
