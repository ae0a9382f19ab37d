"""Devices by name, checked before anything is put on them."""

import torch


def find_device(name: str) -> torch.device:
    """Return the device of that name.

    >>> find_device("cpu")
    device(type='cpu')

    Raises
    ------
    ValueError
        If there is no such device on this machine.
    """
    there = ["cpu"]
    there += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there += ["mps"] * torch.backends.mps.is_available()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    full = f"{device.type}:{device.index or 0}" if device else ""
    if device is None or not {full, full.removesuffix(":0")} & set(there):
        raise ValueError(f"no device {name!r} on this machine; there is {', '.join(there)}")
    return device
