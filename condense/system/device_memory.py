"""How much memory a pass takes, and how much there is.

On CUDA the allocator's own peak is read. A CPU has no such figure: there, what autograd keeps for the backward pass is
added up, which is nearly all of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

DEVICE_SHARE = 0.9  # of a GPU's free memory that a pass may take
HOST_SHARE = 0.25  # of the host's: other processes live there, too
HOST_EXTRA = 1.5  # what operations take for a moment, beside what is kept
# How a RuntimeError says it: the host's allocator; pinned memory and contexts; the libraries' own workspaces.
ALLOCATION_FAILED = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class Peak:
    """Filled when `measured` ends."""

    bytes = 0


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Peak]:
    """Bytes that the computations in its block take at most, beyond what was there before."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    kept: dict[int, int] = {}  # storage -> bytes: views of one are counted once

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):  # those are there anyway
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield peak
    peak.bytes = int(HOST_EXTRA * sum(kept.values()))


def budget(device: torch.device) -> int:
    """Bytes that a pass may take on this device as it is now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(DEVICE_SHARE * (free + idle))
    return int(HOST_SHARE * host_memory())


def host_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still get: what the system has, and what its control group lets it have."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        group = root / "sys/fs/cgroup"
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):  # cached files, which give way
                used -= int(line.split()[1])
        available = min(available, max(0, limit - used))
    return available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in ALLOCATION_FAILED)
