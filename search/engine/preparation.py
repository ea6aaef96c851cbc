"""Prepares the tasks before the trials. If a dataset must be encoded first and that takes long, the cluster's other devices
help with batches.

Each batch is a call or two between engines that trials need anyway; the head's engine keeps shards of all results
(`condense.embeddings.encoding`). Ray Data would start its own encoders beside them, and needs pyarrow and pandas.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from condense.system.errors import UserError
from search.engine.client import Client
from search.engine.pool import Device
from search.space.validation import Validation, fold_tasks, folds_of

EVERY = 15.0  # seconds between two messages
TO_ANSWER = 2.0  # seconds that an engine has to say what it does: one that starts cannot
WORTHWHILE = 120.0  # seconds left, at least: a helper must first start its engine and read the dataset


class Preparation:
    """Prepares tasks, and reports progress line by line."""

    def __init__(self, pool: Any, client: Client, say: Callable[[str], None], per_gpu: bool) -> None:
        """`client`: of the engine on this node that prepares. `per_gpu`: trials take GPUs, so there is one engine per GPU;
        otherwise one per node."""
        self.pool, self.engine, self.say, self.per_gpu = pool, client.engine, say, per_gpu
        self.own = client.node, client.gpu
        self.troubles: set[str] = set()  # a host with eight GPUs would report the same one eight times
        self.started = time.monotonic()

    def identify(self, task: dict[str, Any]) -> dict[str, Any]:
        """See `EngineActor.identify`. Raises UserError if the data cannot be read."""
        answer = self.engine.identify.remote(task)
        while not ray.wait([answer], timeout=EVERY)[0]:
            self._say_that_it_goes_on()
        found: dict[str, Any] = fetch(answer)
        return found

    def describe(self, task: dict[str, Any]) -> dict[str, Any]:
        """See `EngineActor.describe`. Raises UserError if the data cannot be read, or the encoder does not take it."""
        answer = self.engine.describe.remote(task)
        helpers: dict[Any, str] = {}  # pending call to a helping engine -> its host
        asked = None
        try:
            while True:
                ready, _ = ray.wait([answer, *helpers], timeout=EVERY)
                if answer in ready:
                    described: dict[str, Any] = fetch(answer)
                    return described
                for reference in ready:
                    self._hear(reference, helpers.pop(reference))
                doing = None if ready else self._encoding()
                if doing is not None:
                    self.say(doing["line"])
                    if doing["key"] != asked and doing["seconds_left"] > WORTHWHILE:
                        asked = doing["key"]
                        helpers |= self._ask(task, doing)
                elif not ready:
                    self._say_that_it_goes_on()
        finally:
            for reference in helpers:  # helpers that still wait for their device, or read files
                ray.cancel(reference, recursive=False)

    def _encoding(self) -> dict[str, Any] | None:
        """See `EngineActor.encoding_status`; None, too, if the engine cannot say."""
        answer = self.engine.encoding_status.remote()
        return fetch(answer) if ray.wait([answer], timeout=TO_ANSWER)[0] else None

    def _say_that_it_goes_on(self) -> None:
        self.say(f"data and encoder are being made ready, {time.monotonic() - self.started:.0f} s so far")

    def folds(
        self, validation: Validation | None, tasks: list[dict[str, Any]], described: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The folds of `tasks`, task by task, and what `describe` says of each; `tasks` and `described` where there are none.

        Raises UserError if a task's data cannot be divided so.
        """
        if folds_of(validation) == 1:
            return tasks, described
        groups = []
        for task in tasks:
            known = [fetch(self.engine.items.remote(task, split))["groups"] for split in ("condense", "validation")]
            groups.append(None if None in known else len({*known[0], *known[1]}))
        folds = fold_tasks(tasks, validation, groups)
        return folds, [self.describe(fold) for fold in folds]

    def _ask(self, task: dict[str, Any], doing: dict[str, Any]) -> dict[Any, str]:
        here = ray.get_runtime_context().get_node_id()
        found = {}
        for node in ray.nodes():
            name, resources = node["NodeID"], node["Resources"]
            engines = int(resources.get("GPU", 0)) if self.per_gpu else int(name != here)
            for _ in range(engines if node["Alive"] else 0):
                options = {"num_gpus": 1} if self.per_gpu else {"num_cpus": 1}
                where = NodeAffinitySchedulingStrategy(name, soft=False)
                function = ray.remote(help_out).options(max_retries=0, scheduling_strategy=where, **options)
                found[function.remote(self.pool, self.engine, self.own, task, doing)] = node["NodeManagerHostname"]
        if found:
            self.say(f"asking {', '.join(sorted(set(found.values())))} to help encode")
        return found

    def _hear(self, reference: Any, host: str) -> None:
        try:
            trouble = ray.get(reference)
        except ray.exceptions.RayError as error:
            trouble = " ".join(str(error).split("\n")[-1].split()) or type(error).__name__
        line = f"{host} does not help: {trouble}"
        if trouble is not None and line not in self.troubles:
            self.troubles.add(line)
            self.say(line)


def help_out(pool: Any, busy: Any, own: Device, task: dict[str, Any], doing: dict[str, Any]) -> str | None:
    """Makes the engine of this process's device help the engine `busy` on the device `own`; returns why it cannot, if so.

    Reserves the device in Ray as a trial does, so a device that others use helps only once it is free.
    """
    client = Client.here(pool, "encoding")
    if (client.node, client.gpu) == own:
        return None  # the busy one's
    try:
        ray.get(client.engine.help_encode.remote(task, doing, busy))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            return str(error.cause)
        raise
    return None


def fetch(reference: Any) -> Any:
    """`ray.get` that re-raises a UserError from an actor as itself, without Ray's traceback."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
