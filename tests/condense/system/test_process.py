"""What a process that condenses is started with: set before torch is there, and a user's own settings win."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from condense.system.process import ENVIRONMENT, cores, environment

SEEN = """
import json, os, sys
from condense.system.process import prepare_process
prepare_process()
assert "torch" not in sys.modules
print(json.dumps(dict(os.environ)))
"""


def test_idle_threads_sleep_unless_the_user_says_otherwise() -> None:
    clean = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    for own in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        done = subprocess.run(
            [sys.executable, "-c", SEEN], env={**clean, **own}, capture_output=True, text=True, check=True
        )
        seen = json.loads(done.stdout)
        wanted = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "100", **own}
        assert {key: seen[key] for key in wanted} == wanted


def test_a_process_that_is_still_to_start_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ENVIRONMENT:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert environment() == ENVIRONMENT | {"GOMP_SPINCOUNT": "7"}


def test_cores_are_those_of_the_control_group(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    quota = tmp_path / "sys" / "fs" / "cgroup" / "cpu.max"
    quota.parent.mkdir(parents=True)
    for text, count in (
        ("50000 100000", 1),
        ("150000 100000", min(allowed, 2)),
        ("max 100000", allowed),
        ("", allowed),
    ):
        quota.write_text(text)
        assert cores(tmp_path) == count
    assert cores(tmp_path / "none") == allowed
