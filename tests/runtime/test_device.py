import pytest
import torch

from langcell.runtime.device import find_device


def test_the_one_mps_device_may_be_numbered(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("mps") == torch.device("mps")
    assert find_device("mps:0") == torch.device("mps:0")
    with pytest.raises(ValueError, match="no device 'mps:1' on this machine; available: cpu"):
        find_device("mps:1")
