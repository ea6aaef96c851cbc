"""benchmarks/gpu_session.sh: what a part prints and how it ends is in the JSON, and a wrong option is a line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_session.sh"
# In place of Python: benchmarks write the figures that they are told to, tests fail; what collects them is Python itself.
STAND_IN = f"""#!/bin/bash
case "$*" in
    *imagebind_gpu.py*) echo '{{"share": 0.5}}' > "${{@: -1}}" ;;
    *throughput.py*) echo '{{"speed": 2}}' > "${{@: -1}}" ;;
    *'-m pytest'*) echo "1 failed"; exit 1 ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *options], capture_output=True, text=True, env=os.environ, check=False)


def test_all_parts_are_in_the_json_also_those_that_fail(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    done = run("--python", str(python), "--json", str(tmp_path / "all.json"), "--smoke")
    assert done.returncode == 1 and done.stdout.endswith("; failed: tests\n")
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["smoke"] is True
    parts = found["parts"]
    assert (parts["imagebind"]["figures"], parts["throughput"]["figures"]) == ({"share": 0.5}, {"speed": 2})
    assert (parts["tests"]["status"], parts["tests"]["output"]) == (1, "1 failed\n")


def test_a_wrong_option_is_a_line(tmp_path: Path) -> None:
    for options, told in (
        (["--wheel", "x"], "error: unknown option --wheel"),
        (["--wheels", str(tmp_path / "none")], "is no folder"),
        (["--json"], "error: --json needs a value"),
    ):
        done = run(*options)
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
