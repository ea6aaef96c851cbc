"""How OpenMP's threads wait for each other. To be called before torch is first imported in a process."""

from __future__ import annotations

import os


def share_the_cores() -> None:
    """Makes idle threads sleep almost at once instead of spinning; a user's own settings win.

    Where other processes want the cores as well (the trials of a search, a second job), spinning threads keep the one
    they wait for from running: a step of the engine then took 5 to 10 times as long (`benchmarks/LOG.md`).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "100")  # GNU's OpenMP, which torch ships: a short spin is faster than none
