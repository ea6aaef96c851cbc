"""Our settings for `accuracy.py`: a grid, judged on validation (`judge.py`); writes benchmarks/settings/dpc_*.yaml.

python benchmarks/choose_settings.py --json choices.json

Condenses every point with a few seeds and probes it. The best few of each learning rate then train ConvNets too. The
scaling is `relative`, so that one grid of learning rates suits all numbers of items per class.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from judge import condensed, judge, probes
from provenance import provenance

from condense.config.models import CondensationConfig, Hyperparameters
from condense.embeddings.task import load_task
from condense.evaluation.comparison import Comparison
from condense.storage.store import Store

ROOT = Path(__file__).resolve().parent
RATES = (3.0, 10.0, 30.0, 100.0, 300.0)
SCALES = (0.1, 0.2, 0.4, 0.8, 1.6)
LAMBDAS = (0.02, 0.2, 1.0)  # of the cross- and the joint-modal term, together
SEEDS = (1_500_000_000, 1_500_000_001)  # used by no search and not by `accuracy.py`
FINALISTS = 2  # per learning rate
STEPS = 100


def choose(config: CondensationConfig, validation: Comparison) -> tuple[Hyperparameters, list[dict[str, Any]]]:
    """The best point for a budget, and all finalists with their verdicts."""
    grid = [
        Hyperparameters(
            scaling="relative", lambda_cross=weight, lambda_joint=weight, frequency_scale=scale, learning_rate=rate
        )
        for rate, scale, weight in itertools.product(RATES, SCALES, LAMBDAS)
    ]
    sets = condensed(validation.task, config, grid, SEEDS)
    found = probes(validation, sets)
    finalists = [
        i
        for rate in RATES
        for i in sorted((i for i, h in enumerate(grid) if h.learning_rate == rate), key=lambda i: -found[i])[:FINALISTS]
    ]
    verdicts = judge(validation, [sets[i] for i in finalists])
    table = [
        {
            "learning_rate": grid[i].learning_rate,
            "frequency_scale": grid[i].frequency_scale,
            "lambda_cross": grid[i].lambda_cross,
            "probe": verdict.probe,
            "convnet": verdict.convnet,
            "value": verdict.value,
        }
        for i, verdict in zip(finalists, verdicts, strict=True)
    ]
    best = max(range(len(finalists)), key=lambda k: verdicts[k].value)
    return grid[finalists[best]], table


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 5, 10, 20], metavar="DPC")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all verdicts there")
    options = parser.parse_args()
    store, figures = Store(), provenance()
    task = load_task(CondensationConfig(dpc=max(options.budgets)), store, torch.device("cpu"))
    validation = Comparison(task, store, held_out="validation")
    for dpc in options.budgets:
        started = time.monotonic()
        config = CondensationConfig(dpc=dpc, steps=STEPS)
        chosen, table = choose(config, validation)
        figures[f"dpc_{dpc}"] = table
        print(
            f"\n{dpc} per class ({time.monotonic() - started:.0f} s)\n\n| rate | sigma | lambda | probe | ConvNet | mean |"
        )
        print("| ---: " * 6 + "|")
        for e in table:
            print(
                f"| {e['learning_rate']:g} | {e['frequency_scale']:g} | {e['lambda_cross']:g} "
                f"| {100 * e['probe']:.1f} | {100 * e['convnet']:.1f} | {100 * e['value']:.1f} |",
                flush=True,
            )
        written = config.model_copy(update={"hyperparameters": chosen, "seed": 5005})
        text = yaml.safe_dump(written.model_dump(mode="json", exclude_none=True), sort_keys=False)
        head = "# Written by: python benchmarks/choose_settings.py\n"
        (ROOT / "settings" / f"dpc_{dpc}.yaml").write_text(head + text, encoding="utf-8")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
