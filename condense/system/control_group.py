"""What this process's control groups leave to it, as containers and job schedulers set them: versions 1 and 2, at any depth.

A limit holds for a group and all below it, so each group from the process's own up to the root counts. A container often sees
its own group as the root, whatever its path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

MOUNT = "sys/fs/cgroup"


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that may still be allocated within all limits, cached files counted as free; None: there is no limit."""
    left = [_left(folder, "memory.max", "memory.current", "inactive_file") for folder in _groups(root, "")]
    files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    left += [_left(folder, *files) for folder in _groups(root, "memory")]
    return min((each for each in left if each is not None), default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processor seconds per second within all limits; None: there is no limit."""
    quotas = []
    for folder in _groups(root, ""):
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
    for folder in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # -1: no limit
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of those above it; `controller`: of version 1, "" for version 2."""
    top = root / MOUNT / controller
    path = ""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, _, rest = line.partition(":")
            controllers, _, of = rest.partition(":")
            if controller in controllers.split(",") and (controller or number == "0"):
                path = of.strip("/")
    folder = top / path
    while folder != top:
        yield folder
        folder = folder.parent
    yield top


def _left(folder: Path, limit: str, used: str, cached: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # "max" is not a number
        left = int((folder / limit).read_text()) - int((folder / used).read_text())
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == cached:
                left += int(value)
        return max(0, left)
    return None
