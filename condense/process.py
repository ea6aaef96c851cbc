"""What suits a process that condenses on a CPU. To be called before torch is first imported in it."""

from __future__ import annotations

import ctypes
import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt's parameters (malloc.h)


def prepare_process() -> None:
    """Idle threads sleep, and freed memory is kept. A user's own settings win."""
    _share_the_cores()
    _keep_memory()


def _share_the_cores() -> None:
    """Makes idle threads of OpenMP sleep almost at once instead of spinning.

    Where other processes want the cores as well (the trials of a search, a second job), spinning threads keep the one
    they wait for from running: a step of the engine then took 5 to 10 times as long (`benchmarks/LOG.md`).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "100")  # GNU's OpenMP, which torch ships: a short spin is faster than none


def _keep_memory() -> None:
    """Keeps glibc from handing large buffers back to the system at every step, only to ask for them again: the page
    faults took a fifth of a step. Does nothing with another C library or allocator.
    """
    if any(key.startswith("MALLOC_") for key in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
