"""What views and formation add to a step: the same replicas with and without, in turn, in one run.

python benchmarks/step_time.py --json step_time.json

`transformation` is the time of the view alone, forward and backward, without encoder and losses: what a step with views may take
more than one without. spoken_digits through the tiny encoder. Medians over rounds, with their quartiles.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from condense.config.models import CondensationConfig, Hyperparameters
from condense.embeddings.task import Task, load_task
from condense.engine.engine import Engine
from condense.method.condensation import Condensation
from condense.storage.store import Store

SETTINGS = {"none": {}, "views": {"views": 8}, "formation": {"formation": 2}, "both": {"views": 8, "formation": 2}}


def transformation_seconds(replicas: list[Condensation]) -> float:
    """One transformation of each replica's items, forward and backward."""
    started = time.perf_counter()
    for replica in replicas:
        transformation = replica.views[1].transformation
        assert transformation is not None
        for m, x in replica.inputs.items():
            leaf = x.detach().requires_grad_()
            transformation(m, leaf).sum().backward()
    return time.perf_counter() - started


def measured(task: Task, dpc: int, count: int, rounds: int, steps: int) -> dict[str, Any]:
    """setting -> milliseconds of a step: median and quartiles."""
    casts = {
        name: [Condensation(task, dpc, "herding", Hyperparameters(**own), seed, 10_000) for seed in range(count)]
        for name, own in SETTINGS.items()
    }
    engines = {name: Engine(workers=1) for name in SETTINGS}
    for name, cast in casts.items():
        engines[name].run(cast, 2)
    times: dict[str, list[float]] = {name: [] for name in (*SETTINGS, "transformation")}
    for _ in range(rounds):
        for name, cast in casts.items():
            started = time.perf_counter()
            engines[name].run(cast, steps)
            times[name].append(1000 * (time.perf_counter() - started) / steps)
        times["transformation"].append(1000 * transformation_seconds(casts["views"]))
    return {
        name: dict(zip(("q1", "median", "q3"), statistics.quantiles(own, n=4), strict=True))
        for name, own in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dpc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for dpc in options.dpc:
        config = CondensationConfig(dpc=dpc)
        task = load_task(config, Store(), torch.device("cpu"))
        found = results[f"dpc_{dpc}"] = measured(task, dpc, options.replicas, options.rounds, steps=4)
        print(f"{dpc} per class, {options.replicas} replicas, ms per step: median (quartiles)", flush=True)
        for name, own in found.items():
            print(f"  {name:<15} {own['median']:7.1f}  ({own['q1']:.1f} to {own['q3']:.1f})", flush=True)
    if options.json:
        content = {**provenance(), "rounds": options.rounds, "replicas": options.replicas, "step_time": results}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
