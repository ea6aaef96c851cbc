"""Limits of control groups: as containers, Slurm and systemd set them, and a real one where this may be made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from condense.system.control_group import cpu_quota, memory_left
from condense.system.device_memory import host_memory
from condense.system.process import cores

GIB = 2**30
MEMORY = Path("/sys/fs/cgroup/memory")


def tree(root: Path, own: str, files: Mapping[str, str]) -> Path:
    """A machine's files: what /proc says of this process's groups, and files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {500 * GIB // 1024} kB\n")
    for name, content in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def second(limit: object, used: int, cached: int = 0) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 3\ninactive_file {cached}\n",
    }


def first(limit: int, used: int, cached: int = 0) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 7\ntotal_inactive_file {cached}\n",
    }


def below(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def test_slurm_of_version_2(tmp_path: Path) -> None:
    """The limit is the job's, some groups above the process's own; the root has no such files."""
    job = "system.slice/slurmstepd.scope/job_7"
    files = below(job, second(16 * GIB, 5 * GIB, GIB)) | below(f"{job}/step_0/user/task_0", second("max", 4 * GIB))
    files[f"{job}/cpu.max"] = "max 100000\n"
    root = tree(tmp_path, f"0::/{job}/step_0/user/task_0\n", files)
    assert memory_left(root) == host_memory(root) == 12 * GIB
    assert cpu_quota(root) is None


def test_slurm_of_version_1(tmp_path: Path) -> None:
    job = "slurm/uid_1000/job_7"
    files = below("memory", first(2**63 - 4096, 300 * GIB))
    files |= below(f"memory/{job}", first(16 * GIB, 6 * GIB)) | below(
        f"memory/{job}/step_0", first(15 * GIB, 6 * GIB, GIB)
    )
    files |= {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    files |= {"cpu/docker/a/cpu.cfs_quota_us": "150000\n", "cpu/docker/a/cpu.cfs_period_us": "100000\n"}
    own = f"9:name=systemd:/x\n4:memory:/{job}/step_0\n3:cpu,cpuacct:/docker/a\n0::/\n"
    root = tree(tmp_path, own, files)
    assert memory_left(root) == host_memory(root) == 10 * GIB
    assert cpu_quota(root) == 1.5
    assert cores(root) <= 2


@pytest.mark.parametrize("path", ["/", "/../../init.scope", "/docker/abc"])
def test_a_container_sees_its_group_as_the_root(tmp_path: Path, path: str) -> None:
    root = tree(tmp_path, f"0::{path}\n", {**second(8 * GIB, 2 * GIB), "cpu.max": "50000 100000\n"})
    assert memory_left(root) == 6 * GIB and cpu_quota(root) == 0.5 and cores(root) == 1


def test_more_than_the_limit_is_none_left_and_without_limits_the_machine_counts(tmp_path: Path) -> None:
    assert memory_left(tree(tmp_path / "a", "0::/a\n", below("a", second(GIB, 2 * GIB)))) == 0
    root = tree(tmp_path / "b", "garbage\n", {"memory.max": "max\n"})
    assert memory_left(root) is None and cpu_quota(root) is None and host_memory(root) == 500 * GIB
    assert memory_left(tmp_path / "nothing") is None and cpu_quota(tmp_path / "nothing") is None


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real group of version 1, below this process's own, of 2 GiB."""
    own = next(
        (line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), ""
    )
    group = MEMORY / own.strip("/") / f"condense-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(2 * GIB))
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    yield group
    group.rmdir()


def test_a_real_one(limited: Path) -> None:
    asks = f"""
import os
open({str(limited / "cgroup.procs")!r}, "w").write(str(os.getpid()))
from condense.system.control_group import memory_left
print(memory_left())
"""
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1.8 * GIB < int(done.stdout) <= 2 * GIB
