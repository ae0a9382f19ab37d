"""What Lightning says is silenced within a block alone."""

import logging
import warnings

import pytest

from langcell.runtime.lightning_messages import quiet_lightning


def test_known_words_are_silenced_and_others_are_heard() -> None:
    with pytest.warns(UserWarning) as heard, quiet_lightning(".*few batches.*"):
        warnings.warn("the loader does not have many workers", UserWarning, stacklevel=1)
        warnings.warn("so few batches", UserWarning, stacklevel=1)
        warnings.warn("the loss is strange", UserWarning, stacklevel=1)
    assert [str(each.message) for each in heard] == ["the loss is strange"]


def test_the_log_is_as_loud_as_before_even_after_an_error() -> None:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with pytest.raises(KeyError), quiet_lightning():
        assert logger.level == logging.ERROR
        raise KeyError
    assert logger.level == level
