"""benchmarks/scaling.py at its smallest: every figure is there, and those that no machine decides hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.faults
def test_a_small_run_writes_all_figures(tmp_path: Path) -> None:
    options = (
        "--rounds 1 --items 1000 --evaluated 200 --starts 1 --engines 2 --engine-trials 2 --engine-steps 8 --trials 20"
    )
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--json", str(tmp_path / "figures.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CONDENSE_CACHE": str(tmp_path / "cache")}
    subprocess.run([*command, *options.split()], env=environment, check=True, timeout=300)
    found = json.loads((tmp_path / "figures.json").read_text())
    for key in ("step_time_ratio", "memory_per_extra_trial_mb", "first_step_s", "evaluate_mb"):
        assert isinstance(found[key], float)
    assert found["oversized_fill"] >= 0.5
    assert set(found["oversized_step_ms"]) == {"whole", "blocks", "twice"}
    assert found["devices_speedup"] > 0
    assert set(found["weak_scaling"]) == {"2"}
    assert 0 < found["engine_busy_share"]["2"] <= 1
    if (ROOT / "benchmarks" / "scaling_driver.py").exists():
        assert {"suggest_ms", "surrogate_s", "resume_s", "report_mb", "driver_mb"} <= set(found)
