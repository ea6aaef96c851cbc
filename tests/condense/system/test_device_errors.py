"""Which errors leave a GPU's process without use: by PyTorch's own classes, and its messages from head to foot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from condense.system.device_errors import is_broken
from condense.system.device_memory import is_out_of_memory

# What PyTorch (c10/cuda/CUDAException.cpp) puts under the first line of an error that may have come from an earlier call.
FOOT = """
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
GEMM = "cublasSgemm( handle, opa, opb, m, n, k, &alpha, a, lda, b, ldb, &beta, c, ldc)"
NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB of which 1.14 GiB is free. "
    "Process 4211 has 138.58 GiB memory in use. Of the allocated memory 137.10 GiB is allocated by PyTorch, and 211.42 MiB "
    "is reserved by PyTorch but unallocated."
)


@pytest.mark.parametrize(
    "first_line",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
@pytest.mark.parametrize("of", [torch.AcceleratorError, RuntimeError])  # since PyTorch 2.8, and before
def test_what_breaks_the_context(of: Callable[[str], Exception], first_line: str) -> None:
    assert is_broken(of(first_line + FOOT))
    assert not is_out_of_memory(of(first_line + FOOT))


def test_an_accelerator_that_is_not_cudas_breaks_as_well() -> None:
    assert is_broken(torch.AcceleratorError("HIP error: an illegal memory access was encountered"))


def test_a_library_that_failed_breaks_it_and_one_without_memory_does_not() -> None:
    assert is_broken(RuntimeError(f"CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `{GEMM}`"))
    alone = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert is_out_of_memory(alone) and not is_broken(alone)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(NO_MEMORY),
        torch.cuda.OutOfMemoryError(NO_MEMORY),
        torch.AcceleratorError("CUDA error: out of memory" + FOOT),  # of a context or of pinned memory
        RuntimeError("CUDA error: out of memory" + FOOT),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_memory_does_not_break_it(error: Exception) -> None:
    assert is_out_of_memory(error) and not is_broken(error)


def raised(call: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("call", "lacks_memory"),
    [
        (lambda: torch.empty(2**60), True),  # the host's allocator
        (lambda: bytearray(2**60), True),
        (lambda: torch.zeros(2, 3) @ torch.zeros(2, 3), False),
        (lambda: torch.zeros(2).view(3), False),
        (lambda: torch.embedding(torch.zeros(2, 3), torch.tensor([7])), False),
        (lambda: torch.load("/nowhere/weights.pt"), False),
    ],
    ids=["tensor", "bytearray", "shapes", "view", "index", "file"],
)
def test_what_pytorch_raises_on_a_cpu_does_not_break_a_gpu(call: Callable[[], object], lacks_memory: bool) -> None:
    error = raised(call)
    assert not is_broken(error)
    assert is_out_of_memory(error) == lacks_memory


def test_words_alone_are_no_error_of_a_gpu() -> None:
    assert not is_broken(ValueError("CUDA error: device-side assert triggered"))
