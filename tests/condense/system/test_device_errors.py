"""Which errors leave a GPU's process without use."""

from __future__ import annotations

import pytest
import torch

from condense.system.device_errors import is_broken


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
)
def test_what_breaks_the_context(error: Exception) -> None:
    assert is_broken(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        RuntimeError("shape mismatch"),
        ValueError("CUDA error"),
    ],
)
def test_what_does_not(error: Exception) -> None:
    assert not is_broken(error)
