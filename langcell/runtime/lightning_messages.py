"""Silence Lightning messages about settings that are chosen on purpose."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_lightning(*expected: str) -> Iterator[None]:
    """Silence Lightning's device banners, tips and warnings inside the `with` block.

    Parameters
    ----------
    expected
        Regular expressions of further warnings to ignore.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Batches are built in the main process on purpose.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Raised inside Lightning with the torch version of constraints.txt.
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*is deprecated.*")
        for message in expected:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            logger.setLevel(level)
