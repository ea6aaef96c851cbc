"""What does not grow: the time of a step with the real data, the memory of one more trial, the time to propose a trial.

python benchmarks/scaling.py --json scaling.json

- step_time_ratio: seconds per step with 200,000 real items over 2,000, the two in turn (same encoder, same replicas).
- memory_per_extra_trial_mb: growth of the process per further replica at 10 items per class, beside what a replica itself
  needs (items, momentum, frequencies and the real CF at them).
- suggest_ms: what a proposal (TPE) takes the driver after 1,000 finished trials; median of 20.
"""

from __future__ import annotations

from condense.system.process import prepare_process

prepare_process()

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from noise import Noise
from provenance import provenance

from condense.config.models import Hyperparameters, TinyEncoder
from condense.data.dataset import Dataset
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.encoders.tiny import build_tiny, tiny_specs
from condense.engine.engine import Engine
from condense.method.condensation import Condensation

CLASSES = 10
SPECS = {name: spec for name, spec in tiny_specs(TinyEncoder()).items() if name in ("vision", "audio")}


def task_of(items: int) -> Task:
    """A task of random embeddings of `items` real items."""
    labels = torch.arange(items) % CLASSES
    split = Noise(SPECS, labels)
    names = tuple(str(c) for c in range(CLASSES))
    dataset = Dataset(f"{items} items", SPECS, names, split, split, split, str(items))
    encoder = build_tiny(TinyEncoder(pretraining="none"), dataset)
    generator = torch.Generator().manual_seed(1)
    embeddings = {}
    for m in SPECS:
        embeddings[m] = torch.nn.functional.normalize(torch.randn(items, encoder.dim, generator=generator), dim=1)
    few = Embedded({m: x[:100] for m, x in embeddings.items()}, labels[:100])
    return Task(dataset, encoder, Embedded(embeddings, labels), few, torch.device("cpu"))


def replicas_of(task: Task, dpc: int, count: int) -> list[Condensation]:
    return [Condensation(task, dpc, "random", Hyperparameters(), seed, 10_000) for seed in range(count)]


def step_time_ratio(rounds: int) -> dict[str, Any]:
    """Both sizes in turn, 10 steps each."""
    sides = {items: (Engine(), replicas_of(task_of(items), 1, 8)) for items in (2_000, 200_000)}
    seconds: dict[int, list[float]] = {items: [] for items in sides}
    for turn in range(rounds + 1):
        for items, (engine, replicas) in sides.items():
            started = time.perf_counter()
            engine.run(replicas, 10)
            if turn:  # the first one lays out
                seconds[items].append((time.perf_counter() - started) / 10)
    ratios = [b / a for a, b in zip(seconds[2_000], seconds[200_000], strict=True)]
    return {
        "step_time_ratio": median(ratios),
        "step_ms": {str(items): 1e3 * median(values) for items, values in seconds.items()},
    }


def memory_per_extra_trial() -> dict[str, float]:
    """Resident memory with 8 and with 40 replicas after some steps; per replica, in MB."""
    task, process, used = task_of(2_000), psutil.Process(), []
    for count in (8, 40):
        replicas = replicas_of(task, 10, count)
        engine = Engine()
        engine.run(replicas, 5)
        gc.collect()
        used.append(process.memory_info().rss)
    own = replicas[0]
    (need,) = engine._needs.values()
    tensors = [*own.inputs.values(), *own.velocity.values(), *own.frequencies.values(), *own.phi_real.values()]
    return {
        "memory_per_extra_trial_mb": (used[1] - used[0]) / 32 / 1e6,
        "state_of_a_trial_mb": sum(x.numel() * x.element_size() for x in tensors) / 1e6,
        "activations_of_a_trial_mb": need.each / 1e6,
    }


def suggest_ms(trials: int) -> dict[str, float]:
    """Fills a search with `trials` finished trials, then times 20 more proposals."""
    from search.ledger.ledger import Ledger
    from search.space.files import load_space
    from search.tuning.sampler import SpaceSearcher

    os.fsync = lambda _: None  # type: ignore[assignment]  # not what is measured, and most of the filling
    space = load_space("quickstart", [f"trials={trials + 20}", "scheduler=none"])
    took = []
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger.open(Path(name) / "search", space.model_dump(mode="json"), resume=False)
        searcher = SpaceSearcher(space, ledger)
        for number in range(trials + 20):
            started = time.perf_counter()
            config = searcher.suggest(f"t{number}")
            took.append(time.perf_counter() - started)
            assert isinstance(config, dict)
            result = {"step": space.steps, "score": 1 / (1 + config["lambda_cross"])}
            ledger.save(number, space.steps, result, None, b"")
            searcher.on_trial_complete(f"t{number}", result)
        ledger.close()
    return {"suggest_ms": 1e3 * median(took[-20:]), "suggest_ms_at_the_start": 1e3 * median(took[20:40])}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--rounds", type=int, default=15, help="of each side of the step time")
    parser.add_argument("--trials", type=int, default=1000, help="that are finished when proposals are timed")
    options = parser.parse_args()
    figures = {**provenance(), **memory_per_extra_trial(), **step_time_ratio(options.rounds)}
    figures |= suggest_ms(options.trials)
    print(f"step time, 200,000 over 2,000 real items: {figures['step_time_ratio']:.3f}")
    print(f"one more trial: {figures['memory_per_extra_trial_mb']:.1f} MB", end="")
    print(f" (its own tensors: {figures['state_of_a_trial_mb']:.1f} MB; activations, as the ", end="")
    print(f"engine reckons: {figures['activations_of_a_trial_mb']:.1f} MB)")
    print(f"a proposal after {options.trials:,} trials: {figures['suggest_ms']:.0f} ms", end="")
    print(f" (at the start: {figures['suggest_ms_at_the_start']:.0f} ms)")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
