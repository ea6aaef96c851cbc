"""What engines make of their devices: how full the passes of a replica are that is larger than its device, what its step takes,
and how many engines stay busy side by side.

python benchmarks/scaling_engines.py ENGINES FOLDER TRIALS STEPS   (what `weak_scaling` runs in a process of its own)

The engines of `weak_scaling` are simulated: they sleep in place of computing, on nodes of `ray.cluster_utils.Cluster`. Measured
are thus dispatch, ledger and reports: what keeps a device waiting between the first and the last step that its engine takes.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from scaling_data import CLASSES, replicas_of, task_of, write_tensors

from condense.engine.engine import Engine, _shape
from condense.engine.replica_batch import Pass, ReplicaBatch
from condense.engine.spread import Spread

STEP = 0.25  # seconds that a simulated step takes
STEPS, REPORT_EVERY = 160, 40  # of a trial: 40 s, a report every 10 s
TRIALS = 3  # per engine


def oversized_fill(steps: int = 3, dpc: int = 6) -> dict[str, Any]:
    """Items of a modality that go through the encoder with their activations at a time, over what the budget has room for if all
    modalities go together, for replicas of which it holds a part; the least over some budgets, and each."""
    fills = {}
    for share in (0.15, 0.4, 0.7, 0.95):
        (replica,) = replicas_of(task_of(500), dpc, 1)
        engine = Engine()
        engine.run([replica], 1)
        need = engine._profile([replica])
        engine = Engine(budget=need.fixed + math.ceil(share * need.each), workers=1)
        passed: list[int] = []
        encoder, own = replica.task.encoder, replica.task.encoder.embed

        def embed(m: str, inputs: torch.Tensor, passed: list[int] = passed, own: Any = own) -> torch.Tensor:
            if torch.is_grad_enabled() and inputs.requires_grad:
                passed.append(len(inputs))
            return own(m, inputs)

        engine._needs[_shape(replica)] = need
        encoder.embed = embed  # type: ignore[method-assign]
        engine.run([replica], steps)
        encoder.embed = own  # type: ignore[method-assign]
        room = share * CLASSES * dpc  # of each modality, where all go through together
        fills[str(share)] = fmean(passed) / room
    return {"oversized_fill": min(fills.values()), "oversized_fills": fills}


def oversized_step(rounds: int = 15, dpc: int = 20, share: float = 0.5) -> dict[str, Any]:
    """Milliseconds of a step of a replica of which the budget holds a share: whole, as if it held all; in blocks of classes; and,
    as before there were those, in parts that are embedded twice. All in turn, median over rounds; and what blocks save of that.
    """

    class Twice(ReplicaBatch):
        def _by_blocks(self, size: int, least: int, spread: Spread | None) -> Pass:
            return self._twice(size * dpc, spread)

    sides: dict[str, tuple[ReplicaBatch, int | None]] = {}
    some = int(share * CLASSES) * dpc
    for name, make, at_once in (
        ("whole", ReplicaBatch, None),
        ("blocks", ReplicaBatch, some),
        ("twice", Twice, some),
    ):
        (replica,) = replicas_of(task_of(500), dpc, 1)
        Engine().run([replica], 1)
        sides[name] = make([replica]), at_once
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, (pack, at_once) in sides.items():
            started = time.perf_counter()
            pack.update(pack.gradients(at_once))
            if turn:
                seconds[name].append(time.perf_counter() - started)
    found = {name: 1e3 * median(own) for name, own in seconds.items()}
    return {"oversized_step_ms": found, "oversized_saved": 1 - found["blocks"] / found["twice"]}


def several_devices(rounds: int = 15, dpc: int = 20) -> dict[str, Any]:
    """Milliseconds of a step of one replica on one device, and shared by two. A device is a CPU core here. In turn, median over
    rounds; and how many times as fast two are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    devices = {count: [torch.device("cpu")] * count for count in (1, 2)}
    sides = {
        count: (Engine(workers=1, devices=own), replicas_of(task_of(500), dpc, 1)) for count, own in devices.items()
    }
    seconds: dict[int, list[float]] = {count: [] for count in sides}
    for turn in range(rounds + 2):
        for count, (engine, replicas) in sides.items():
            started = time.perf_counter()
            engine.run(replicas, 1)
            if turn > 1:  # the first step measures what the terms are divided by, the second lays the replica out anew
                seconds[count].append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    found = {str(count): 1e3 * median(own) for count, own in seconds.items()}
    return {"devices_step_ms": found, "devices_speedup": found["1"] / found["2"]}


def weak_scaling(engines: tuple[int, ...] = (2, 4, 8), trials: int = TRIALS, steps: int = STEPS) -> dict[str, Any]:
    """Efficiency of so many simulated engines, each with as many trials, over that of one."""
    busy = {}
    for count in (1, *engines):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "CONDENSE_CACHE": f"{folder}/cache", "SIMULATED_LOG": f"{folder}/log"}
            here = Path(__file__).parent
            environment["PYTHONPATH"] = os.pathsep.join([str(here.parent), str(here)])
            command = [sys.executable, __file__, str(count), folder, str(trials), str(steps)]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            busy[count] = busy_share(Path(folder) / "log")
    return {
        "weak_scaling": {str(count): busy[count] / busy[1] for count in engines},
        "weak_scaling_of": "trials; the confirmation is left out",
        "engine_busy_share": {str(count): share for count, share in busy.items()},
    }


def busy_share(log: Path) -> float:
    """Of the time from an engine's first step to its last one, the share that it took steps; mean over engines."""
    spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        engine, began, ended = line.split()
        spans[int(engine)].append((float(began), float(ended)))
    shares = []
    for own in spans.values():
        first, last = min(began for began, _ in own), max(ended for _, ended in own)
        shares.append(sum(ended - began for began, ended in own) / (last - first))
    return fmean(shares)


def simulate(tenants: Any) -> None:
    """Makes an engine sleep where it would compute."""
    from condense.evaluation.replica_scores import Judged
    from search.engine import tenants as module

    def step(replicas: list[Any], steps: int = 1) -> list[Any]:
        began = time.time()
        time.sleep(steps * STEP)
        for replica in replicas:
            replica.step += steps
            replica.history += [torch.ones(4)] * steps
        with open(os.environ["SIMULATED_LOG"], "a") as log:
            log.write(f"{os.getpid()} {began} {time.time()}\n")
        return []

    tenants.engine.step = step
    module.synthetic_features = lambda replicas: [torch.zeros(1, 1) for _ in replicas]  # type: ignore[assignment]
    module.validate_items = lambda replicas, features: [Judged(0.5) for _ in replicas]  # type: ignore[assignment]
    tenants._diagnostics.of = lambda replicas, features: [{} for _ in replicas]


def search(count: int, folder: Path, trials: int, steps: int) -> int:
    """A search over so many simulated engines."""
    from search.cluster.ray_session import prepare_environment

    prepare_environment()
    import ray
    from ray.cluster_utils import Cluster

    import search.engine.pool as pool
    from search.driver import Request, Search
    from search.engine.actor import EngineActor

    class SimulatedActor(EngineActor):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            import scaling_engines

            scaling_engines.simulate(self.tenants)

    class SimulatedPool(pool.EnginePool):
        engine = SimulatedActor

    pool.EnginePool = SimulatedPool  # type: ignore[misc]
    Search._close = lambda *_: None  # type: ignore[method-assign]  # no confirmation: what is measured are trials
    variables = {name: os.environ[name] for name in ("CONDENSE_CACHE", "SIMULATED_LOG", "PYTHONPATH")}
    cluster = Cluster()
    for _ in range(count):
        cluster.add_node(num_cpus=1, include_dashboard=False, env_vars=variables)
    try:
        ray.init(address=cluster.address, logging_level=40)
        cluster.wait_for_nodes()
        return Search(Request.of(space_of(folder, count * trials, count, steps), output=folder / "out")).run()
    finally:
        ray.shutdown()
        cluster.shutdown()


def space_of(folder: Path, trials: int, count: int, steps: int) -> dict[str, Any]:
    write_tensors(folder, 400)
    encoder = {"name": "tiny", "pretraining": "none", "width": 4, "image_size": 8}
    data = {"name": "tensors", "path": str(folder / "data.safetensors")}
    return {
        "name": "simulated",
        "tasks": [{"dataset": data, "encoder": encoder, "dpc": 1}],
        "fixed": {"lambda_uni": 1.0, "num_frequencies": 16, "frequency_pool": 64},
        "search": {"lambda_cross": {"low": 0.01, "high": 100, "log": True}},
        "steps": steps,
        "report_every": max(1, steps // 4),
        "trials": max(3, trials),  # the fewest that there may be
        "seeds": 1,
        "scheduler": {"name": "none"},
        "sampler": {"name": "random"},
        "max_concurrent": count,
        "resources": {"cpus_per_trial": 1},
        "confirmation": {"top_k": 1, "seeds": 2, "perturbations": 0, "reported_perturbations": 0, "tuned_rates": 0},
    }


if __name__ == "__main__":
    sys.exit(search(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
