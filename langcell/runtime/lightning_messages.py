"""Silence for what Lightning says about choices that were made on purpose."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_lightning(*expected: str) -> Iterator[None]:
    """Silence device banners, tips and warnings within a block.

    Parameters
    ----------
    expected
        Regular expressions of further warnings that say nothing new.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Batches are made in the process that reads them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Inside Lightning itself, against the torch of constraints.txt.
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*is deprecated.*")
        for message in expected:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            logger.setLevel(level)
