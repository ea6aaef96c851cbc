"""How much longer AVDD-style takes to the same validation accuracy, where both may choose the length of their schedule.

python benchmarks/speed.py --json speed.json

`accuracy.py` reads the same claim off runs of one length, whose learning rates come down at their end: a setting with high rates
gets to any accuracy late there, however soon a shorter schedule would. Here each method is condensed with schedules of several
lengths; its time to an accuracy is that of the soonest one. The accuracy is the best that AVDD-style has at any length;
its learning rate is tuned on the full length, and so was our setting.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from accuracy import (
    FIRST_SEED,
    FIRST_TUNING_SEED,
    TUNING_SEEDS,
    Run,
    condense,
    parser_of,
    read_settings,
    say,
    seconds_to,
    tune,
)
from provenance import provenance, run

from condense.config.published import MMD_LEARNING_RATES, avdd
from condense.embeddings.task import load_task
from condense.evaluation.comparison import CONVNET_STEPS, Comparison
from condense.storage.store import Store

LENGTHS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the full schedule


def soonest(runs: Sequence[Run], accuracy: float) -> tuple[float, int]:
    """Seconds to `accuracy` of the run that gets there first, and its number of steps; infinity and 0 if none does."""
    found = [(seconds_to(run.curve, accuracy), int(run.curve[-1]["step"])) for run in runs]
    seconds, steps = min(found)
    return (seconds, steps) if math.isfinite(seconds) else (math.inf, 0)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a line per budget; returns what `--json` writes."""
    configs = read_settings(options.settings, options.quick)
    seeds = [FIRST_SEED + i for i in range(options.seeds)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store, found = Store(), {}
    task = load_task(list(configs.values())[-1], store, device)
    validation = Comparison(task, store, 10 if options.quick else CONVNET_STEPS, held_out="validation")
    for dpc, config in configs.items():
        rates = [rate * task.dataset.num_classes * dpc for rate in MMD_LEARNING_RATES]
        tuning = [FIRST_TUNING_SEED + i for i in range(1 if options.quick else TUNING_SEEDS)]
        theirs, _ = tune(validation, config, avdd, rates, tuning)
        say(f"{dpc} per class: AVDD-style tuned, learning rate {theirs.learning_rate:g}")
        runs: dict[str, list[Run]] = {}
        for name, setting in (("avdd", theirs), ("ours", config.hyperparameters)):
            steps = sorted({max(1, round(config.steps * length)) for length in LENGTHS})
            runs[name] = [condense(task, config.model_copy(update={"steps": n}), setting, seeds) for n in steps]
        best = max(point["accuracy"] for run in runs["avdd"] for point in run.curve)
        (slow, slow_steps), (fast, fast_steps) = soonest(runs["avdd"], best), soonest(runs["ours"], best)
        ratio = slow / fast if math.isfinite(fast) else 0.0
        found[f"dpc_{dpc}"] = {
            "accuracy": best,
            "avdd": {"seconds": slow, "steps": slow_steps, "learning_rate": theirs.learning_rate},
            "ours": {"seconds": fast if fast_steps else None, "steps": fast_steps},
            "ratio": ratio,
            "finals": {
                name: {str(int(r.curve[-1]["step"])): r.curve[-1]["accuracy"] for r in of} for name, of in runs.items()
            },
        }
        told = f"ours {fast:.1f} s with {fast_steps} steps: {ratio:.1f} x" if fast_steps else "ours never"
        print(
            f"{dpc} per class, to {100 * best:.1f} %: AVDD-style {slow:.1f} s with {slow_steps} steps, {told}",
            flush=True,
        )
    return {**provenance(), "seeds": seeds, "lengths": LENGTHS, "speed": found}


def main(arguments: Sequence[str] | None = None) -> int:
    return run(benchmark, parser_of(__doc__).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
