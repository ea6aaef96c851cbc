"""What does not grow: with the items, with a replica that is larger than its device, with the engines, and with the trials.

python benchmarks/scaling.py --json scaling.json

- step_time_ratio: seconds per step with 200,000 real items over 2,000, the two in turn (same encoder, same replicas).
- memory_per_extra_trial_mb: growth of the process per further replica at 10 items per class, beside what a replica itself
  needs (items, momentum, frequencies and the real CF at them).
- first_step_s: a new process until its first step, with 200,000 items whose embeddings are in the cache; first_step_cpu_s: its
  processor time.
- evaluate_mb: memory above the embeddings while sets are evaluated by probe and retrieval, with 20,000 items on either side.
- oversized_fill: items per pass over what there is room for, for a replica that does not fit the budget; the least over some
  budgets. One that almost fits takes two passes, so that it cannot be much more than half.
- oversized_step_ms: its step in blocks of classes, beside one that fits, and parts that are embedded twice.
- devices_speedup: how many times as fast two devices, CPU cores here, are at one replica as one (`condense run --device A,B`).
- weak_scaling: how busy 2, 4 and 8 engines are over one, where their work on the device is simulated (`scaling_engines.py`).
- suggest_ms, surrogate_s, resume_s, report_mb, driver_mb: the driver after 5,000 finished trials (`scaling_driver.py`).
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from provenance import provenance
from scaling_data import evaluate_mb, first_step_s, memory_per_extra_trial, step_time_ratio
from scaling_engines import STEPS, TRIALS, oversized_fill, oversized_step, several_devices, weak_scaling


def driver_figures(trials: int) -> dict[str, Any]:
    """The driver's figures; none where `scaling_driver.py` is missing."""
    try:
        import scaling_driver
    except ModuleNotFoundError as error:
        if error.name != "scaling_driver":
            raise
        print("scaling_driver.py is missing: no figures of the driver", file=sys.stderr)
        return {}
    found: dict[str, Any] = scaling_driver.driver_figures(trials)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--rounds", type=int, default=15, help="of each side of the step time")
    parser.add_argument("--items", type=int, default=200_000, help="real items of a step and of a start")
    parser.add_argument("--evaluated", type=int, default=20_000, help="items of an evaluation")
    parser.add_argument("--starts", type=int, default=3, help="of a process with a warm cache")
    parser.add_argument("--engines", type=int, nargs="*", default=[2, 4, 8], help="simulated ones")
    parser.add_argument("--engine-trials", type=int, default=TRIALS, help="per simulated engine")
    parser.add_argument("--engine-steps", type=int, default=STEPS, help="of a trial of a simulated engine, 0.25 s each")
    parser.add_argument("--trials", type=int, default=5000, help="that are finished when the driver is measured")
    options = parser.parse_args()
    figures: dict[str, Any] = provenance()
    parts = {
        "memory of a trial": memory_per_extra_trial,
        "time of a step": lambda: step_time_ratio(options.rounds, options.items),
        "first step": lambda: first_step_s(options.items, options.starts),
        "evaluation": lambda: evaluate_mb(options.evaluated),
        "oversized replica": lambda: oversized_fill() | oversized_step(options.rounds),
        "several devices": lambda: several_devices(options.rounds),
        "engines": lambda: weak_scaling(tuple(options.engines), options.engine_trials, options.engine_steps),
        "driver": lambda: driver_figures(options.trials),
    }
    for name, measure in parts.items():
        found = measure()
        figures |= found
        print(f"{name}: {json.dumps(found)}", flush=True)
        if options.json is not None:  # what has been measured is not lost
            options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
