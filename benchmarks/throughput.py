"""How fast condensations are: the engine against one process per trial, a pack against one after the other, a whole
search against the bare engine. Both sides of every figure are measured here, in turn, on one machine.

python benchmarks/throughput.py --json throughput.json

- speedup_over_naive: replica-steps per second of 8 concurrent trials in one engine, over 8 concurrent processes that
  each load the encoder and re-encode a real batch of 128 items per class at every step (`naive.py`).
- share_of_peak: operations per second of that engine's encoder passes, forward and backward to the inputs only, over the
  machine's measured rate of matrix products in float32, on all cores.
- packing_speedup: 8 trials in one pack over the same 8 one after the other in the same engine.
- search_overhead: seconds of a whole search (Ray Tune, Optuna, MLflow; from the first line of `search/run.py` to the last
  trial's end) over the bare engine doing the same steps and validations (from the first line of its process). With
  `--cores` the engine of both sides is kept to so many cores, as it is where the machine has some to spare.
"""

from __future__ import annotations

from condense.system.process import cores, prepare_process

prepare_process()

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peak import flops_per_replica_step, matrix_rate
from provenance import provenance

from condense.config.models import CondensationConfig, Hyperparameters
from condense.embeddings.task import (
    Task,
    load_task,
)
from condense.engine.engine import Engine
from condense.evaluation.replica_scores import validate
from condense.method.condensation import Condensation
from condense.storage.store import Store

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 8  # at a time, unless --concurrent says otherwise
NAIVE_SECONDS = 8.0  # of each measurement of the naive processes
MATRIX = 2048  # rows and columns of the products that show what the machine can do
# quickstart in the size of a search in earnest, with early stopping at half of the steps as there
SEARCH = {"dpc": 10, "steps": 200, "report_every": 50, "concurrent": 4}
CORES = cores()
SETTING = Hyperparameters(lambda_cross=0.3, lambda_joint=0.3, frequency_scale=0.5, learning_rate=10.0)


def engine_rate(task: Task, dpc: int, packed: bool, trials: int, seconds: float) -> float:
    """Replica-steps per second of so many replicas: all in one pack, or one after the other."""
    replicas = [Condensation(task, dpc, "herding", SETTING, seed, 100_000) for seed in range(trials)]
    engine, steps = Engine(), 0
    groups = [replicas] if packed else [[replica] for replica in replicas]
    for group in groups:
        engine.run(group, 3)
    elapsed = 0.0
    while elapsed < seconds:
        for group in groups:
            engine.run(group, 1)  # lays the pack out; a trial that runs alone does so once, too
            started = time.perf_counter()
            engine.run(group, 10)
            elapsed += time.perf_counter() - started
            steps += 10 * len(group)
    return steps / elapsed


def naive_rate(config: CondensationConfig, trials: int, seconds: float) -> float:
    """Replica-steps per second of so many processes of `naive.py` at the same time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "task.json").write_text(config.model_dump_json())
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "benchmarks" / "naive.py"), str(folder / "task.json"), str(folder)]
        processes = [
            subprocess.Popen([*command, str(seed), str(seconds)], env=environment, cwd=ROOT) for seed in range(trials)
        ]
        while len(list(folder.glob("*.ready"))) < trials:
            if any(process.poll() for process in processes):
                raise RuntimeError("a naive process failed")
            time.sleep(0.05)
        (folder / "go").touch()
        if any(process.wait() for process in processes):
            raise RuntimeError("a naive process failed")
        done = [json.loads((folder / f"{seed}.json").read_text()) for seed in range(trials)]
        return sum(entry["steps"] / entry["seconds"] for entry in done)


def compare_rates(store: Store, trials: int, seconds: float, naive_seconds: float, rounds: int) -> dict[str, Any]:
    """Replica-steps per second of the three ways, at 1 and 10 items per class; the engine's share of what the machine can do."""
    figures: dict[str, Any] = {}
    peaks: list[float] = []
    flops: dict[str, float] = {}
    for dpc in (1, 10):
        config = CondensationConfig(dpc=dpc, hyperparameters=SETTING)
        task = load_task(config, store, torch.device("cpu"))
        rates: dict[str, list[float]] = {"naive": [], "one_by_one": [], "packed": []}
        for _ in range(rounds):
            rates["naive"].append(naive_rate(config, trials, naive_seconds))
            rates["one_by_one"].append(engine_rate(task, dpc, False, trials, seconds))
            rates["packed"].append(engine_rate(task, dpc, True, trials, seconds))
            peaks.append(matrix_rate(task.device, seconds / 4, MATRIX, torch.float32))
        flops[f"dpc_{dpc}"] = flops_per_replica_step(task, dpc)
        figures[f"dpc_{dpc}"] = {way: {"median": median(values), "values": values} for way, values in rates.items()}
    share = {key: rates["packed"]["median"] * flops[key] / median(peaks) for key, rates in figures.items()}
    return {
        "replica_steps_per_second": figures,
        "speedup_over_naive": {k: v["packed"]["median"] / v["naive"]["median"] for k, v in figures.items()},
        "packing_speedup": {k: v["packed"]["median"] / v["one_by_one"]["median"] for k, v in figures.items()},
        "share_of_peak": share,
        "matrix_rate": median(peaks),
        "flops_per_replica_step": flops,
    }


def search_seconds(folder: Path, trials: int) -> tuple[float, list[dict[str, Any]], float]:
    """Seconds from the start of `search/run.py` to its last trial's end; what each trial was and did; the time that the
    engine spent on validation over that on steps."""
    started = time.time()
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--space", "quickstart", "--output", str(folder)]
    command += ["--set", f"trials={trials}", "--set", "confirmation.top_k=1", "--set", "confirmation.seeds=2"]
    command += ["--set", f"tasks.0.dpc={SEARCH['dpc']}", "--set", f"steps={SEARCH['steps']}"]
    command += ["--set", f"report_every={SEARCH['report_every']}", "--set", f"max_concurrent={SEARCH['concurrent']}"]
    command += ["--set", f"scheduler.grace_steps={SEARCH['steps'] // 2}", "--verbose"]
    if SEARCH["cores"] < CORES:
        command += ["--set", f"resources.cpus_per_trial={SEARCH['cores'] / SEARCH['concurrent']}"]
    for unmeasured in ("perturbations", "reported_perturbations", "tuned_rates"):  # come after the last trial's end
        command += ["--set", f"confirmation.{unmeasured}=0"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the search failed: {done.stdout}{done.stderr}")
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("trials/*/result.json"))]
    known = [json.loads(file.read_text()) for file in sorted(folder.glob("trials/*/trial.json"))]
    trials_done = [
        {"config": of["config"], "seeds": of["seeds"], "steps": result["steps"]}
        for of, result in zip(known, results, strict=True)
    ]
    spent = re.search(r"steps ([0-9.]+) s, validation ([0-9.]+) s", done.stderr)
    assert spent is not None
    seconds = max(result["finished"] for result in results) - started
    return seconds, trials_done, float(spent[2]) / float(spent[1])


def bare(file: Path) -> None:
    """The bare engine, in a process of its own: the trials in `file`, as many at a time, validated as often."""
    work = json.loads(file.read_text())
    config = CondensationConfig(dpc=work["dpc"])
    torch.set_num_threads(work["cores"])
    task = load_task(config, Store(), torch.device("cpu"))
    engine = Engine()
    waiting, running = list(work["trials"]), []
    while waiting or running:
        while waiting and len(running) < work["concurrent"]:
            trial = waiting.pop(0)
            h = Hyperparameters.model_validate(trial["config"])
            make = functools.partial(Condensation, task, config.dpc, "herding", h, total_steps=work["steps"])
            members = engine.each(make, trial["seeds"])
            running.append((trial["steps"], members))
        every = work["report_every"]  # as far as no trial reports: the bare engine waits for nobody in between
        steps = min(min(every - m[0].step % every, total - m[0].step) for total, m in running)
        engine.step([replica for _, members in running for replica in members], steps)
        due = [m for total, m in running if m[0].step % every == 0 or m[0].step == total]
        if due:
            validate([replica for members in due for replica in members])
        for steps, members in list(running):
            if members[0].step >= steps:
                running.remove((steps, members))
                for replica in members:
                    engine.losses_of(replica)
                    engine.leave(replica)


def search_overhead(trials: int, rounds: int) -> dict[str, Any]:
    """Both sides, in turn; the search's steps are its own, as early stopping left them."""
    searches, bares, shares = [], [], []
    with tempfile.TemporaryDirectory() as name:
        for turn in range(rounds):
            seconds, done, share = search_seconds(Path(name) / f"search_{turn}", trials)
            searches.append(seconds)
            shares.append(share)
            file = Path(name) / "work.json"
            file.write_text(json.dumps({"trials": done, **SEARCH}))
            started = time.perf_counter()
            command = [sys.executable, str(Path(__file__).resolve()), "--bare", str(file)]
            subprocess.run(command, cwd=ROOT, check=True)
            bares.append(time.perf_counter() - started)
    replica_steps = sum(trial["steps"] * len(trial["seeds"]) for trial in done)
    return {
        "search_seconds": searches,
        "bare_seconds": bares,
        "trials": trials,
        "steps": SEARCH["steps"],
        "engine_cores": SEARCH["cores"],
        "replica_steps": replica_steps,
        "validation_over_steps": shares,
        "search_overhead": median(s / b for s, b in zip(searches, bares, strict=True)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--trials", type=int, default=50, help="of the search whose overhead is measured")
    parser.add_argument("--steps", type=int, default=SEARCH["steps"], help="of its trials, which report four times")
    parser.add_argument(
        "--cores", type=int, default=CORES, help="that the engine may use, on both sides of search_overhead"
    )
    parser.add_argument("--concurrent", type=int, default=TRIALS, help="trials at a time, where rates are measured")
    parser.add_argument(
        "--naive-seconds", type=float, default=NAIVE_SECONDS, help="of each measurement of the naive side"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement of the engine")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, in turn; the median counts")
    parser.add_argument("--only", choices=["rates", "search"], help="one half of the benchmark")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare)
        return 0
    SEARCH.update(steps=options.steps, report_every=max(1, options.steps // 4), cores=min(options.cores, CORES))
    figures: dict[str, Any] = provenance()
    store = Store()
    load_task(CondensationConfig(), store, torch.device("cpu"))  # fills the cache: no side should pay for that
    if options.only != "search":
        figures |= compare_rates(store, options.concurrent, options.seconds, options.naive_seconds, options.rounds)
        rates = figures["replica_steps_per_second"]
        print(
            f"| {options.concurrent} trials, replica-steps per second | 1 per class | 10 per class |\n| --- | ---: | ---: |"
        )
        for way, told in (
            ("naive", f"{options.concurrent} processes, real batch re-encoded"),
            ("one_by_one", "engine, one after the other"),
            ("packed", "engine, packed"),
        ):
            print(f"| {told} | " + " | ".join(f"{rates[d][way]['median']:.1f}" for d in rates) + " |")
        for key, told in (("speedup_over_naive", "over naive"), ("packing_speedup", "by packing")):
            print(f"| **speed-up {told}** | " + " | ".join(f"**{x:.1f} x**" for x in figures[key].values()) + " |")
        told = " | ".join(f"{share:.2f}" for share in figures["share_of_peak"].values())
        print(f"| share_of_peak, of {figures['matrix_rate'] / 1e9:.0f} GFLOP/s in float32 | {told} |")
    if options.only != "rates":
        figures |= search_overhead(options.trials, options.rounds)
        whole, engine = median(figures["search_seconds"]), median(figures["bare_seconds"])
        print(
            f"\na search of {options.trials} trials x 3 seeds, {options.steps} steps, engine on {SEARCH['cores']} cores: "
            f"{whole:.1f} s; the bare engine: {engine:.1f} s; ",
            end="",
        )
        print(f"search_overhead {figures['search_overhead']:.2f}", end="; ")
        print(f"validation took {100 * median(figures['validation_over_steps']):.1f} % of the steps' time")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
