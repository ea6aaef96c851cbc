"""Errors after which a process can no longer use its GPU."""

from __future__ import annotations

import torch

from condense.system.device_memory import is_out_of_memory


def is_broken(error: BaseException) -> bool:
    """Whether a CUDA error has broken this process's context (illegal access, failed assertion, uncorrectable memory error,
    lost device), so that every later call fails too. Running out of memory does not."""
    cuda = isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return cuda and not is_out_of_memory(error)
