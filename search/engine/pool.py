"""Creates engines and hands them out: one per GPU, or per node without one.

The driver owns the pool, because an engine dies with its owner: an engine created by a trial would end with that trial,
and a detached one would outlive the search.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from condense.storage.cache_folder import default_folder, read_entry, verify_variables
from condense.system.process import environment
from search.engine.actor import EngineActor
from search.engine.left_out import NoDeviceLeft
from search.space.plan import Keeping

IDLE = 300.0  # an engine without tenants ends after these seconds, so that its node can be released
IDLE_CHECK = 20.0
SECONDS_TO_FORGET = 5.0
FAILED_STARTS = 3  # engines in a row that did not start, before their device is left out
# An engine takes no GPU from Ray's count but is pinned to one. A Ray that was started by somebody else has not read this.
ON_ZERO_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

Device = tuple[str, str]  # node id; GPU id, or ""


class EnginePool:
    """Runs as its own actor, one call at a time."""

    engine: type[EngineActor] = EngineActor  # what it makes

    def __init__(self, threads: int | None = None, idle: float = IDLE, search: str = "") -> None:
        """`threads`: per engine (default: the cores that it may use). `idle`: seconds before an idle engine ends. `search`: whose
        engines these are, in words."""
        self.threads, self.idle, self.search = threads, idle, search
        context = ray.get_runtime_context()
        self.node, self.handle = context.get_node_id(), context.current_actor
        self.engines: dict[Device, tuple[int, Any]] = {}
        self.made = 0  # engines, on all devices
        self.known: list[Device] = []  # that may stand in for each other
        self.started: set[int] = set()  # incarnations that have
        self.failed: dict[Device, int] = {}  # engines in a row that have not
        self.out: dict[Device, str] = {}  # devices that are left out -> why
        self.told = 0  # of these, in order
        self.lock = threading.Lock()
        threading.Thread(target=self._end_idle, daemon=True, name="idle engines").start()

    def use(self, devices: Sequence[Device]) -> None:
        """What devices there are for trials: another one's engine stands in for one that is left out."""
        with self.lock:
            self.known = list(dict.fromkeys([*self.known, *devices]))

    def get(
        self, node: str, gpu: str, bad: int = 0, trouble: str = "", refuses: bool = False, stays: bool = False
    ) -> tuple[int, Any]:
        """The engine of a device, as (incarnation, handle); of another one if this is left out.

        `bad`: the caller found this incarnation dead, or unable to work for this `trouble`. A device is left out if its engine
        `refuses` to work, or several in a row have not started. `stays`: only an engine on the same node will do.
        Raises NoDeviceLeft.
        """
        device = node, gpu
        with self.lock:
            if not stays and device not in self.known:  # what writes may be on a device that runs no trials
                self.known.append(device)
            if bad:
                self._count(bad, trouble, refuses)
            if device in self.out:
                device = self._stand_in(device, stays)
            current = self.engines.get(device)
            if current is not None and current[0] != bad:
                return current
            self.made += 1
            self.engines[device] = self.made, self._make(device)
            return self.engines[device]

    def works(self, incarnation: int) -> None:
        """An engine has started."""
        with self.lock:
            self.started.add(incarnation)
            self.failed |= {device: 0 for device, (current, _) in self.engines.items() if current == incarnation}

    def left_out(self) -> tuple[list[str], str]:
        """A line for each device that has been left out since this was asked; and if none is left, why."""
        with self.lock:
            out, some_left = dict(self.out), any(device not in self.out for device in self.known)
        hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()} if out else {}
        lines = []
        for (node, gpu), trouble in out.items():
            place = f"{hosts.get(node, 'a lost host')} (node {node[:8]}{f', GPU {gpu}' if gpu else ''})"
            lines.append(f"{place} is left out, as its engine cannot start: {trouble}")
        new, self.told = lines[self.told :], len(lines)
        return new, "" if some_left else "; ".join(lines)

    def _count(self, bad: int, trouble: str, refuses: bool) -> None:
        device = next((device for device, (current, _) in self.engines.items() if current == bad), None)
        if device is None or bad in self.started:  # old news, or it has died at work
            return
        self.failed[device] = self.failed.get(device, 0) + 1
        if refuses or self.failed[device] >= FAILED_STARTS:
            self.out[device] = trouble
            del self.engines[device]

    def _stand_in(self, device: Device, stays: bool) -> Device:
        """One of the devices that are left, on the same node if there is one; another one for each that is left out."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        left = [other for other in self.known if other not in self.out and other[0] in alive]
        same = [other for other in left if other[0] == device[0]]
        if not (same or left) or (stays and not same):
            raise NoDeviceLeft(self.out[device])
        return (same or left)[list(self.out).index(device) % len(same or left)]

    def _make(self, device: Device) -> Any:
        node, gpu = device
        variables = environment() | ON_ZERO_GPUS | verify_variables() | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        return (
            ray.remote(self.engine)
            .options(
                num_cpus=0,
                num_gpus=0,
                max_concurrency=1000,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": variables},
            )
            .remote(self.threads, None if node == self.node else self.handle, gpu)
        )

    def owner(self) -> str:
        """Whose engines these are, in words."""
        return self.search

    def entry(self, kind: str, name: str) -> bytes | None:
        """A file of this node's cache, for engines on other nodes: expensive entries are made once per cluster."""
        return read_entry(default_folder(), kind, name)

    def accounts(self) -> dict[Device, dict[str, float]]:
        """Device -> `EngineActor.account`."""
        return self._ask("account")

    def forget(self, tenants: Sequence[str]) -> None:
        """Removes tenants whose processes were stopped, from whatever engine they are in."""
        with self.lock:
            engines = [handle for _, handle in self.engines.values()]
        calls = [engine.leave.remote(tenant) for engine in engines for tenant in tenants]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=SECONDS_TO_FORGET)

    def discard(self, keeping: Keeping) -> None:
        """Deletes the states of a search that are in files: there is nothing to continue any more."""
        self._ask("discard", keeping)

    def _ask(self, method: str, *arguments: Any) -> dict[Device, Any]:
        with self.lock:
            engines = dict(self.engines)
        answers = {}
        for device, (_, handle) in engines.items():
            try:
                answers[device] = ray.get(getattr(handle, method).remote(*arguments), timeout=5)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                continue
        return answers

    def _end_idle(self) -> None:
        while True:
            time.sleep(min(IDLE_CHECK, self.idle / 4))
            for device, seconds in self._ask("idle_seconds").items():
                if seconds > self.idle:
                    self._end(device)

    def _end(self, device: Device) -> None:
        """Ends an engine. Clients find it dead and ask for the next one."""
        with self.lock:
            _, handle = self.engines.pop(device, (0, None))
        if handle is None:
            return
        handle.__ray_terminate__.remote()
