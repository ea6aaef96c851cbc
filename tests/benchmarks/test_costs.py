"""What a search costs: operations are those of the architecture, and the table follows from them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("einops", "ftfy", "regex", "imagebind"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_table(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "costs.py"), "--json", str(tmp_path / "costs.json")]
    options = ["--trials", "100", "--share", "0.5", "--tflops", "100"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "costs.json").read_text())
    vision = found["towers"]["vision"]
    layers, width, tokens = 32, 1280, 257
    of_layers = 2 * 12 * width**2 * tokens * layers  # forward: query, key, value, output and two times four of the MLP
    attention = 2 * 2 * tokens**2 * width * layers
    stem = 2 * 3 * 2 * 14**2 * width * (tokens - 1)
    assert vision["flops"] == pytest.approx(
        2 * of_layers + 3 * attention + 2 * stem, rel=0.03
    )  # backward to the inputs only
    assert vision["values"] == 3 * 224**2
    flops = sum(tower["flops"] for tower in found["towers"].values())
    hours = 100 * 3 * 300 * (2 / 3) * 280 * flops / 50e12 / 3600
    assert found["spaces"]["ave"]["gpu_hours"] == pytest.approx(hours)
    assert f"| ave | {280 * flops / 50e12:.2f} | {hours:,.1f} h | {hours / 8:,.1f} h |" in done.stdout
