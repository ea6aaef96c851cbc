"""Process settings for condensing on a CPU: idle threads sleep, and the allocator keeps freed memory.

- If other processes share the cores (the trials of a search, a second job), spinning OpenMP threads delay the very thread
  that they wait for.
- glibc returns large buffers to the system at every step and requests them again: the page faults took a fifth of a step or
  more (`benchmarks/LOG.md`). A thread's own arena is returned regardless of the thresholds, hence a single arena.

None of this changes a result, and none of it is required: the commands and the engines of a search do it for speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path

from condense.system import control_group

KEEP = 1 << 30  # bytes
# For a process that has not started yet. torch ships GNU's OpenMP, where a short spin is faster than none.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "100",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(KEEP),
    "MALLOC_TRIM_THRESHOLD_": str(KEEP),
}
_MALLOPT = {"MALLOC_ARENA_MAX": -8, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}  # malloc.h


def environment() -> dict[str, str]:
    """`ENVIRONMENT`, unless the user has set other values."""
    return {key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()}


def prepare_process() -> None:
    """Applies `environment()` to this process. Call it before importing torch; running threads keep their arenas."""
    chosen = environment()
    os.environ.update({key: value for key, value in chosen.items() if key not in _MALLOPT})
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for key, parameter in _MALLOPT.items():
        if key not in os.environ:  # otherwise glibc has read it
            mallopt(parameter, int(chosen[key]))


def cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may use: its affinity, limited by its control groups (rounded up)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = control_group.cpu_quota(root)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in its block, which makes millions of objects that stay: the collector would look at all of them
    again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
