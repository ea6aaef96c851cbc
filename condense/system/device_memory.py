"""How much memory a pass takes, and how much is free.

On CUDA this is the allocator's own peak. A CPU has no such counter: there it is the sum of the tensors that autograd
keeps for the backward pass, which is nearly everything.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from condense.system import control_group

DEVICE_SHARE = 0.9  # of a GPU's free memory that a pass may take
HOST_SHARE = 0.25  # of the host's free memory, which other processes need too
HOST_EXTRA = 1.5  # temporary buffers of operations, besides what is kept
# Texts of RuntimeErrors: the host's allocator; pinned memory and contexts; workspaces of libraries.
ALLOCATION_FAILED = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


Item = TypeVar("Item")
Result = TypeVar("Result")


class Peak:
    """Set when `measured` ends."""

    bytes = 0


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Peak]:
    """Measures the peak bytes of the computations in its block, beyond those in use before."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    # By their addresses, since views of a storage count once. They are held to the end: one that is freed would leave its address
    # to another, and what is measured would depend on the allocator.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):  # parameters exist anyway
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield peak
    peak.bytes = int(HOST_EXTRA * sum(storage.nbytes() for storage in kept.values()))


def budget(device: torch.device) -> int:
    """Bytes that a pass may take on this device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(DEVICE_SHARE * (free + idle))
    return int(HOST_SHARE * host_memory())


def host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still allocate: the free memory, limited by its control groups."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    left = control_group.memory_left(root)
    return available if left is None else min(available, left)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in ALLOCATION_FAILED)


def in_halves(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """`work(items)`, a result per item; where memory runs out, that of either half, and so on. Raises what a single item raises,
    and any other error."""
    try:
        return work(items)
    except Exception as error:
        if len(items) < 2 or not is_out_of_memory(error):
            raise
        # The frames hold the tensors of the work: memory that the halves need.
        traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    return in_halves(work, items[:middle]) + in_halves(work, items[middle:])
