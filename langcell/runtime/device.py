"""Look up torch devices by name, and move dataclasses of tensors to them."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

AUTO = "auto"
Item = TypeVar("Item")


def find_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a CUDA GPU if there is one, else the CPU.

    >>> find_device("cpu")
    device(type='cpu')

    Raises
    ------
    ValueError
        If there is no such device on this machine.
    """
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    available = ["cpu"]
    available += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    available += ["mps"] * torch.backends.mps.is_available()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    full = f"{device.type}:{device.index or 0}" if device else ""
    if device is None or not {full, full.removesuffix(":0")} & set(available):
        raise ValueError(f"no device {name!r} on this machine; available: {', '.join(available)}")
    return device


def to_device(item: Item, device: torch.device) -> Item:
    """Return a copy of a dataclass with its tensors and modules on a device, nested ones too.

    >>> from langcell.nn.features import CellFeatures
    >>> one = torch.ones(1)
    >>> cells = CellFeatures(states=one, attention_mask=None, pooled=one, features=one)
    >>> to_device(cells, torch.device("meta")).states.device
    device(type='meta')
    """
    assert is_dataclass(item) and not isinstance(item, type)
    values = {each.name: getattr(item, each.name) for each in fields(item)}
    copy: Item = replace(
        item, **{name: _to_device(value, device) for name, value in values.items()}
    )
    return copy


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor | nn.Module):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_to_device(each, device) for each in value)
    return to_device(value, device) if is_dataclass(value) else value
