"""What suits a process that condenses on a CPU: idle threads that sleep, and an allocator that keeps what is freed.

- Where other processes want the cores as well (the trials of a search, a second job), OpenMP threads that spin keep the
  one they wait for from running.
- glibc hands large buffers back to the system at every step, only to ask for them again: the page faults took a fifth of a
  step and more (`benchmarks/LOG.md`). An arena of a thread's own is handed back whatever the thresholds, hence a single one.

None of this changes a result, and none of it is needed: the commands and the engines of a search do it for speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from pathlib import Path

KEEP = 1 << 30  # bytes
# For a process that is still to be started. GNU's OpenMP is what torch ships: a short spin is faster than none.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "100",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(KEEP),
    "MALLOC_TRIM_THRESHOLD_": str(KEEP),
}
_MALLOPT = {"MALLOC_ARENA_MAX": -8, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}  # malloc.h


def environment() -> dict[str, str]:
    """`ENVIRONMENT` where the user has not set anything else."""
    return {key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()}


def prepare_process() -> None:
    """The same for this process. To be called before torch is imported; threads that run already keep their arenas."""
    chosen = environment()
    os.environ.update({key: value for key, value in chosen.items() if key not in _MALLOPT})
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for key, parameter in _MALLOPT.items():
        if key not in os.environ:  # else glibc has read it
            mallopt(parameter, int(chosen[key]))


def cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may use: its affinity, and what its control group lets it have, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)
