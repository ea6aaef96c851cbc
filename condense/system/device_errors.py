"""Errors after which a GPU's process is of no more use."""

from __future__ import annotations

import torch

from condense.system.device_memory import is_out_of_memory


def is_broken(error: BaseException) -> bool:
    """Whether a CUDA error has broken this process's context (an illegal access, a failed assertion, an uncorrectable memory
    error, a device that was lost): whatever follows on it fails, too. A lack of memory does not."""
    cuda = isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))
    return cuda and not is_out_of_memory(error)
