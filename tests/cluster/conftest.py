"""Hosts for the tests of this folder, or a loud word on why there are none."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hosts import Hosts, missing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A laptop with this project in ~/project, and a head and two workers that know nothing of it."""
    reason = missing()
    if reason is not None:
        pytest.skip(f"NO CLUSTER IS TESTED HERE: {reason}")
    made = Hosts(tmp_path_factory.mktemp("hosts"), ["laptop", "head", "worker1", "worker2"])
    try:
        left_out = [".git", ".venv", "results", "build", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"]
        excludes = [f"--exclude={name}" for name in left_out]
        project = made.home("laptop") / "project"
        subprocess.run(["rsync", "-a", *excludes, f"{ROOT}/", f"{project}/"], check=True)
        edit_cluster(project / "cluster.yaml", made)
        yield made
    finally:
        made.close()


def edit_cluster(file: Path, made: Hosts) -> None:
    """What a user edits, and nothing else: each line once."""
    text = file.read_text()
    workers = ", ".join(made.address[name] for name in made.names if name.startswith("worker"))
    for pattern, value in (
        (r"head_ip: \S+", f"head_ip: {made.address['head']}"),
        (r"worker_ips: \[.*?\]", f"worker_ips: [{workers}]"),
        (r"ssh_user: \S+", "ssh_user: root"),
    ):
        text, count = re.subn(pattern, value, text)
        assert count == 1, pattern
    file.write_text(text)
