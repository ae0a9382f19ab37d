"""Plots of annotated cells, with the interface of `scanpy.pl`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
