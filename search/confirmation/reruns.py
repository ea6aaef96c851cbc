"""Runs settings on fresh seeds, over all devices, as many at a time as fit into memory. Each result is kept on disk.

A run is one setting with one seed, on all tasks. Its result depends on nothing else, so a run that was done before is read
from disk: under another label, after a kill, or as part of a request for more seeds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from search.analysis.scores import per_task
from search.confirmation.portions import Portions
from search.engine.client import SECONDS_TO_LEAVE, Client, forget
from search.engine.pool import Device
from search.ledger.atomic_files import read_json, write_json
from search.space.plan import Plan

LEASE = 86_400.0
"""Seconds that a setting may be silent: its result waits in the engine until the driver asks for it."""

SECONDS_BETWEEN_LINES = 20.0  # about a stage that takes long

PARTS, TEST_PARTS = ("accuracies", "shares", "hits"), ("test", "test_hits")  # of a run, a value per task each
KEPT_IF_KNOWN = ("log_loss",)  # which earlier versions lack

Run = tuple[str, int]  # a setting's key, a seed


@dataclass
class Running:
    """Runs of one setting that form one tenant of a device's engine."""

    key: str
    seeds: list[int]
    device: Device
    client: Client
    wave: int  # number of runs started together on this device


class Reruns:
    """Runs settings on seeds, each once, even if the process is killed and restarted."""

    def __init__(
        self,
        folder: Path,
        pool: Any,
        plan: Plan,
        devices: Sequence[Device],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`folder`: where results are kept; created if missing. `say` hears how far a stage is, if it takes long."""
        self.folder, self.pool, self.plan, self.devices, self.say = folder, pool, plan, list(devices), say
        self.portions = Portions(self.devices)
        self.room: dict[Device, int] = {}  # number of runs that fit into a device's memory
        self.done, self.seconds = 0, 0.0  # runs of this process, and what they took
        self.asked: set[Run] = set()  # by this process, whether they were kept or not: what a budget counts
        folder.mkdir(exist_ok=True)

    def run(
        self, settings: Mapping[str, dict[str, Any]], seeds: Sequence[int], stage: str, test: bool = False
    ) -> dict[str, dict[str, Any]]:
        """label -> {hyperparameters, seeds, accuracies, shares, hits, and if asked test, test_hits} of each setting on `seeds`,
        task-major; log_loss, too, where all runs say it. Hits (`search.engine.hits`) are None where items have no values.

        All values of a setting are NaN, and its hits None, if one of its runs has a loss that is not finite.
        """
        keys = {label: key_of(hyperparameters) for label, hyperparameters in settings.items()}
        by_key = {keys[label]: hyperparameters for label, hyperparameters in settings.items()}
        self.asked |= {(key, seed) for key in by_key for seed in seeds}
        known = {key: self._read(key, hyperparameters) for key, hyperparameters in by_key.items()}

        def lacks(key: str, seed: int) -> bool:
            run = known[key]["runs"].get(str(seed))
            # Earlier versions kept no hits: what lacks them is run again.
            return run is None or any(name not in run for name in (*PARTS, *(TEST_PARTS if test else ())))

        settled = {key for key in by_key if _divergence(known[key], seeds) is not None}
        waiting = deque((key, seed) for key in by_key if key not in settled for seed in seeds if lacks(key, seed))
        self._run(waiting, known, stage, test)
        return {label: self._result(known[key], seeds, test) for label, key in keys.items()}

    def more(self, settings: Iterable[Mapping[str, Any]], seeds: Sequence[int]) -> int:
        """How many runs of these have not been asked for yet."""
        return len({(key_of(own), seed) for own in settings for seed in seeds} - self.asked)

    def kept(self, hyperparameters: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """seed -> a setting's run that has not diverged, by task: `PARTS`, and what of `KEPT_IF_KNOWN` is known."""
        runs = self._read(key_of(hyperparameters), hyperparameters)["runs"]
        return {int(seed): run for seed, run in runs.items() if "divergence" not in run}

    def replica_steps(self) -> int:
        """Of all runs that are kept; of one that diverged, as if it had gone to its end."""
        runs = [known["runs"] for path in self.folder.glob("*.json") if "runs" in (known := read_json(path) or {})]
        return sum(map(len, runs)) * self.plan.steps * len(self.plan.tasks)

    def _run(self, waiting: deque[Run], known: dict[str, dict[str, Any]], stage: str, test: bool) -> None:
        total, started = len(waiting), time.monotonic()
        self.portions.begin_stage(total)
        idle, running = deque(self.devices), list[Running]()

        def tell() -> None:
            left = len(waiting) + sum(len(some.seeds) for some in running)
            seconds = time.monotonic() - started
            told = f"{stage.replace('_', ' ')}: {total - left} of {total} runs done after {seconds:.0f} s"
            self.say(told + (f", about {seconds * left / (total - left):.0f} s left" if left < total else ""))

        try:
            while waiting or running:
                while waiting and idle:
                    running += self._start(idle[0], waiting, known)
                    if any(some.device == idle[0] for some in running):
                        idle.popleft()
                done = first_ready(running, tell)
                if not self._collect(done, waiting, known[done.key], stage, test):
                    continue
                running.remove(done)
                if not any(some.device == done.device for some in running):
                    self.portions.ended(done.device)
                    idle.append(done.device)
        finally:
            give_up(running, SECONDS_TO_LEAVE)
            self.done += total - len(waiting)
            self.seconds += time.monotonic() - started

    def _start(self, device: Device, waiting: deque[Run], known: Mapping[str, dict[str, Any]]) -> list[Running]:
        """Starts a device's portion of the waiting runs, or as many as fit into its memory. If that is too much, starts none:
        they wait again, and the next attempt takes half."""
        if device not in self.room:
            engine = Client(self.pool, "reruns", *device).engine
            self.room[device] = ray.get(engine.room.remote(self.plan.tasks))
        most = min(self.portions.of(device, len(waiting)), self.room[device])
        wave = [waiting.popleft() for _ in range(most)]
        started: list[Running] = []
        try:
            for key, runs in itertools.groupby(wave, key=lambda run: run[0]):
                seeds = [seed for _, seed in runs]
                client = Client(self.pool, f"rerun {key} {seeds[0]}", *device)
                started.append(Running(key, seeds, device, client, len(wave)))
                hyperparameters = known[key]["hyperparameters"]
                client.join(self.plan.tasks, hyperparameters, seeds, self.plan.steps, lease=LEASE, resumable=False)
        except Exception as error:
            give_up(started)  # frees their memory for the next attempt
            self._make_room(device, len(wave), error)
            waiting.extendleft(reversed(wave))
            return []
        for some in started:
            some.client.start(self.plan.steps)
        self.portions.took(device, len(wave))
        return started

    def _collect(self, done: Running, waiting: deque[Run], known: dict[str, Any], stage: str, test: bool) -> bool:
        """Receives a tenant's report and stores it; False if the tenant had to join another engine and is still running."""
        client = done.client
        try:
            report = client.report_or_join_again()
            if report is None:
                return False
            diverged = report["divergence"]
            final = ray.get(client.engine.finals.remote(client.tenant)) if test and diverged is None else None
        except Exception as error:
            give_up([done])
            self._make_room(done.device, done.wave, error)
            waiting.extendleft((done.key, seed) for seed in reversed(done.seeds))
            return True
        give_up([done])
        if diverged is not None:
            known["runs"][str(diverged["seed"])] = {"stage": stage, "node": client.node, "divergence": diverged}
            for run in [run for run in waiting if run[0] == done.key]:  # the setting has diverged
                waiting.remove(run)
        else:
            values = {name: report[name] for name in PARTS}
            values |= {name: report[name] for name in KEPT_IF_KNOWN if name in report}
            values |= {} if final is None else {"test": final["scores"], "test_hits": final["hits"]}
            columns = {name: per_task(of, len(self.plan.tasks)) for name, of in values.items()}
            for i, seed in enumerate(done.seeds):
                own = {name: [task[i] for task in of] for name, of in columns.items()}
                known["runs"][str(seed)] = {"stage": stage, "node": client.node, **own}
        write_json(self.folder / f"{done.key}.json", known)
        return True

    def _make_room(self, device: Device, wave: int, error: Exception) -> None:
        """After an error: halves the number of runs on a device from now on. Raises the error if that cannot help."""
        from condense.system.device_memory import is_out_of_memory

        cause = getattr(error, "cause", None) or error
        if wave < 2 or not is_out_of_memory(cause):
            raise error
        self.room[device] = min(self.room[device], wave // 2)

    def _result(self, known: Mapping[str, Any], seeds: Sequence[int], test: bool) -> dict[str, Any]:
        result: dict[str, Any] = {"seeds": list(seeds), "hyperparameters": known["hyperparameters"]}
        runs, diverged = known["runs"], _divergence(known, seeds)
        names: tuple[str, ...] = (*PARTS, *TEST_PARTS) if test else PARTS
        tasks = range(len(self.plan.tasks))
        if diverged is not None:
            lost = {name: [None if name.endswith("hits") else math.nan] * (len(tasks) * len(seeds)) for name in names}
            return result | lost | {"divergence": diverged}
        names += tuple(name for name in KEPT_IF_KNOWN if all(name in runs[str(seed)] for seed in seeds))
        return result | {name: [runs[str(seed)][name][task] for task in tasks for seed in seeds] for name in names}

    def _read(self, key: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """What is stored of a setting: {hyperparameters, runs: seed -> {stage, node, and by task: `PARTS`, `TEST_PARTS`}}."""
        known = read_json(self.folder / f"{key}.json")
        if known is not None and known.get("hyperparameters") == hyperparameters and "runs" in known:
            return known
        return {"hyperparameters": hyperparameters, "runs": {}}


def key_of(hyperparameters: Mapping[str, Any]) -> str:
    """A setting's file name."""
    return hashlib.sha256(json.dumps(hyperparameters, sort_keys=True).encode()).hexdigest()[:16]


def _divergence(known: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any] | None:
    """Where a setting first diverged on `seeds`."""
    runs = [known["runs"].get(str(seed), {}) for seed in seeds]
    return next((run["divergence"] for run in runs if "divergence" in run), None)


def give_up(running: Sequence[Running], seconds: float | None = None) -> None:
    """Removes tenants from their engines and waits until they are gone, at most `seconds` if given."""
    for some in running:
        some.client.leave()
    forget([some.client for some in running], seconds)


def first_ready(running: Sequence[Running], tell: Callable[[], None]) -> Running:
    """Waits for a tenant that has a report, or whose engine has died; calls `tell` every so often."""
    while True:
        ready, _ = ray.wait([some.client.pending for some in running], timeout=SECONDS_BETWEEN_LINES)
        if ready:
            return next(some for some in running if some.client.pending == ready[0])
        tell()
