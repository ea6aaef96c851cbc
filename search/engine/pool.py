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

IDLE = 300.0  # an engine without tenants ends after these seconds, so that its node can be released
IDLE_CHECK = 20.0
SECONDS_TO_FORGET = 5.0
# An engine takes no GPU from Ray's count but is pinned to one. A Ray that was started by somebody else has not read this.
ON_ZERO_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

Device = tuple[str, str]  # node id; GPU id, or ""


class EnginePool:
    """Runs as its own actor, one call at a time."""

    def __init__(self, threads: int | None = None, idle: float = IDLE) -> None:
        """`threads`: per engine (default: the cores that it may use). `idle`: seconds before an idle engine ends."""
        self.threads, self.idle = threads, idle
        context = ray.get_runtime_context()
        self.node, self.handle = context.get_node_id(), context.current_actor
        self.engines: dict[Device, tuple[int, Any]] = {}
        self.made: dict[Device, int] = {}  # how many engines it has had
        self.lock = threading.Lock()
        threading.Thread(target=self._end_idle, daemon=True, name="idle engines").start()

    def get(self, node: str, gpu: str, bad: int = 0) -> tuple[int, Any]:
        """The engine of a device, as (incarnation, handle). `bad`: the caller found this incarnation dead."""
        device = node, gpu
        with self.lock:
            current = self.engines.get(device)
            if current is not None and current[0] != bad:
                return current
            self.made[device] = self.made.get(device, 0) + 1
            self.engines[device] = self.made[device], self._make(device)
            return self.engines[device]

    def _make(self, device: Device) -> Any:
        node, gpu = device
        variables = environment() | ON_ZERO_GPUS | verify_variables() | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        return (
            ray.remote(EngineActor)
            .options(
                num_cpus=0,
                num_gpus=0,
                max_concurrency=1000,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": variables},
            )
            .remote(self.threads, None if node == self.node else self.handle, gpu)
        )

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

    def _ask(self, method: str) -> dict[Device, Any]:
        with self.lock:
            engines = dict(self.engines)
        answers = {}
        for device, (_, handle) in engines.items():
            try:
                answers[device] = ray.get(getattr(handle, method).remote(), timeout=5)
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
            _, handle = self.engines.pop(device)
        handle.__ray_terminate__.remote()
