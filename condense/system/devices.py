"""Which device to compute on."""

from __future__ import annotations

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
