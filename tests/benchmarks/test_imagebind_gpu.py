"""The GPU benchmark runs anywhere over small towers, and says so where there is no GPU for the large ones."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

for package in ("einops", "ftfy", "regex", "imagebind"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
BRIEF = ["--trials", "2", "--dpc", "1", "--real", "2", "--seconds", "0.1", "--rounds", "1"]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "imagebind_gpu.py"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.faults
def test_small_towers_give_every_figure(tmp_path: Path) -> None:
    done = run("--size", "small", *BRIEF, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["speedup_over_naive"]) == {"bfloat16", "float32"}
    assert figures["items_per_second"] > 0 and figures["share_of_matrix_rate"] > 0
    assert "pairs of items per second" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    done = run()
    assert done.returncode == 0
    assert "no CUDA device" in done.stderr
