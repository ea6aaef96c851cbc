"""Which device to compute on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from condense.system.errors import UserError


def device_of(asked: str | torch.device | None) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; None: the GPU if there is one. Raises UserError if it is another, or not there."""
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be cpu, cuda or cuda:N, but got {str(asked)!r}")
    if device.type == "cpu":
        return torch.device("cpu")  # however it was numbered
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) < count:
        return device
    there = "no CUDA device" if not count else "only cuda:0" if count == 1 else f"only cuda:0 .. cuda:{count - 1}"
    raise UserError(f"device {asked} is not there: PyTorch finds {there}")


def devices_of(asked: str | torch.device | None) -> list[torch.device]:
    """As `device_of`, or several GPUs: `cuda:0,cuda:1`. Raises UserError also if one is named twice, or is no GPU."""
    names = asked.split(",") if isinstance(asked, str) else [asked]
    devices = [device_of(name.strip() if isinstance(name, str) else name) for name in names]
    if len(devices) > 1:
        if any(device.type != "cuda" for device in devices):
            raise UserError(f"several devices must be GPUs, but got {asked!r}")
        if len({device.index or 0 for device in devices}) < len(devices):
            raise UserError(f"each device must be named once, but got {asked!r}")
    return devices


def named(devices: Sequence[torch.device]) -> str:
    """`cuda:0, cuda:1`"""
    return ", ".join(str(device) for device in devices)
