"""Cost and result of `make search` from an empty cache: time, memory of all its processes, confirmed gains.

python benchmarks/quickstart.py --json quickstart.json

Memory is the largest sum, over all processes of the search, of the proportional set size (shared pages count once).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]


def memory_of(process: psutil.Process) -> float:
    """Bytes of a process and everything that it started."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def measure(output: Path) -> dict[str, Any]:
    """Runs the search, from an empty cache; seconds, memory, and what its report says."""
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", "quickstart", "--output", str(output)]
    environment = {**os.environ, "CONDENSE_CACHE": str(output.parent / "cache")}
    started, peak = time.perf_counter(), 0.0
    process = psutil.Popen(command, env=environment, cwd=output.parent, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(1)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"the search ended with {process.returncode}")
    report = json.loads((output / "report.json").read_text())
    return {
        "seconds": seconds,
        "peak_memory_gb": peak / 1e9,
        **{key: report[key] for key in ("trials", "recommended", "robust_region", "confirmation", "test", "cost")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = {**provenance(), **measure(Path(name) / "quickstart")}
    confirmation, test = figures["confirmation"], figures["test"]
    print(f"{sum(figures['trials'].values())} trials in {figures['seconds']:.0f} s, {figures['peak_memory_gb']:.1f} GB")
    for setting, difference in confirmation["differences"].items():
        low, high = difference["ci95"]
        print(f"confirmed gain over {setting}: {difference['mean']:.4f} [{low:.4f}, {high:.4f}], n = {difference['n']}")
    print("test accuracy: " + ", ".join(f"{method} {of['mean']:.3f}" for method, of in test.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
