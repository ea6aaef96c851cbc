"""The engine as one Ray actor per GPU (or per node without one), and the broker that makes engines.

All work on the device is done by one thread of the actor; calls are handed to it and wait. Between two steps it
takes what has arrived: that is when replicas join and leave. The broker belongs to the driver, because an engine
dies with its owner: one that a trial made would end with that trial, a detached one would outlive the search.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from condense.process import environment, prepare_process


@dataclass
class Member:
    """The replicas of one trial (or of one confirmed setting): tasks x seeds."""

    replicas: list[Any]  # condense.condensation.Condensation; untyped so that importing this needs no torch
    target: int = 0
    waiting: Future[dict[str, Any]] | None = None
    curve: list[Any] = field(default_factory=list)


class EngineActor:
    """Runs on the node whose device it uses. See `condense.engine.Engine` for what is shared."""

    def __init__(self, threads: int | None) -> None:
        prepare_process()
        import torch

        from condense.engine import Engine
        from condense.store import Store

        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.threads = threads or len(os.sched_getaffinity(0))
        self.store = Store()
        self.engine = Engine()
        self.tasks: dict[str, Any] = {}
        self.full: dict[str, float] = {}
        self.tests: dict[str, Any] = {}
        self.members: dict[str, Member] = {}
        self.replica_steps = 0
        self.inbox: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True, name="engine").start()

    # Calls ---------------------------------------------------------------------------------------------------------

    def describe(self, task: dict[str, Any]) -> dict[str, Any]:
        """Loads a task; what the driver needs to know of it."""
        return self._do(lambda: self._describe(task))

    def join(
        self,
        member: str,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        state: bytes | None,
    ) -> int:
        """Adds replicas (tasks x seeds), at `state` if given; returns the step they are at. Joining twice starts anew."""
        return self._do(lambda: self._join(member, tasks, hyperparameters, seeds, total_steps, state))

    def advance(self, member: str, steps: int) -> dict[str, Any]:
        """Takes `steps` steps and validates; a report with the state to continue from (`search.trainable`)."""
        waiting: Future[dict[str, Any]] = Future()
        self._do(lambda: self._expect(member, steps, waiting))
        return waiting.result()

    def leave(self, member: str) -> None:
        """Drops a member; unknown ones are ignored."""
        self._do(lambda: self._leave(member))

    def finals(self, member: str) -> dict[str, Any]:
        """Opens test: accuracy per replica. Only the end of a search calls this."""
        return self._do(lambda: self._finals(member))

    def baselines(self, task: dict[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
        """Opens test: accuracy of choosing real items, and of the full data."""
        return self._do(lambda: self._baselines(task, seeds))

    def export(self, member: str, position: int, folder: str, record: dict[str, Any]) -> None:
        """Writes the synthetic items of one replica to `folder` (on this node)."""
        self._do(lambda: self._export(member, position, folder, record))

    def previews(self, member: str, position: int, most: int) -> list[dict[str, Any]]:
        """The first items of each class of one replica: label, index, modality -> {png, wav, txt}."""
        return self._do(lambda: self._previews(member, position, most))

    def overview(self, member: str, position: int) -> bytes:
        """A contact sheet of one replica's items, as PNG."""
        return self._do(lambda: self._overview(member, position))

    def work_done(self) -> int:
        """Replica-steps taken since the engine started."""
        return self.replica_steps

    # The engine's thread -------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()
        self.inbox.put((work, done))
        return done.result()

    def _serve(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        while True:
            busy = [m for m in self.members.values() if m.waiting is not None]
            self._take_calls(block=not busy)
            busy = [m for m in self.members.values() if m.waiting is not None]
            if not busy:
                continue
            try:
                self._step(busy)
            except Exception as error:  # the trials hear of it and start again from their checkpoints
                for member in busy:
                    if member.waiting is not None:
                        member.waiting.set_exception(error)
                        member.waiting = None

    def _take_calls(self, block: bool) -> None:
        while True:
            try:
                work, done = self.inbox.get(block)
            except queue.Empty:
                return
            block = False
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

    def _step(self, busy: list[Member]) -> None:
        due = [m for m in busy if m.replicas[0].step >= m.target or _diverged(m)]
        if not due:
            self.engine.step([r for m in busy for r in m.replicas])
            self.replica_steps += sum(len(m.replicas) for m in busy)
            due = [m for m in busy if m.replicas[0].step >= m.target]
        if due:
            for member, report in zip(due, self._reports(due), strict=True):
                assert member.waiting is not None
                waiting, member.waiting = member.waiting, None
                waiting.set_result(report)

    def _reports(self, due: list[Member]) -> list[dict[str, Any]]:
        import torch

        from condense.engine import validate
        from search.state import pack_states

        losses = [[self.engine.losses_of(r) for r in m.replicas] for m in due]
        accuracies = iter(validate([r for m in due for r in m.replicas]))
        reports = []
        for member, own in zip(due, losses, strict=True):
            values = [next(accuracies) for _ in member.replicas]
            first = next((r for r in member.replicas if r.divergence), None)
            steps = min(len(x) for x in own)
            mean = torch.stack([x[:steps].double() for x in own]).mean(0)
            last = member.replicas[0].step
            reports.append(
                {
                    "step": last,
                    "accuracies": values,
                    "shares": [v / self.full[r.key] for v, r in zip(values, member.replicas, strict=True)],
                    "curve": {
                        "step": list(range(last - steps + 1, last + 1)),
                        **{
                            name: mean[:, i].tolist()
                            for i, name in enumerate(("loss/uni", "loss/cross", "loss/joint", "loss"))
                        },
                    },
                    "divergence": None
                    if first is None
                    else {"step": first.divergence.step, "term": first.divergence.term, "seed": first.seed},
                    "state": pack_states([r.state_dict() for r in member.replicas]),
                }
            )
        return reports

    def _task(self, config: dict[str, Any]) -> tuple[str, Any, Any]:
        from condense.config import TaskConfig
        from condense.engine import probe_accuracy
        from condense.tasks import load_task, task_key

        parsed = TaskConfig.model_validate(config)
        key = task_key(parsed)
        if key not in self.tasks:
            task = load_task(parsed, self.store, self.device)
            self.full[key] = probe_accuracy(task.condense, task.validation, task.dataset.num_classes)
            self.tasks[key] = task
        return key, parsed, self.tasks[key]

    def _describe(self, config: dict[str, Any]) -> dict[str, Any]:
        from condense.retrieval import alignment_warnings

        key, parsed, task = self._task(config)
        task.dataset.check_class_sizes(parsed.dpc)
        return {
            "dataset": task.dataset.name,
            "modalities": list(task.modalities),
            "class_names": list(task.dataset.class_names),
            "items": {"condense": len(task.condense.labels), "validation": len(task.validation.labels)},
            "full_accuracy": self.full[key],
            "warnings": alignment_warnings(task.validation.embeddings, task.validation.labels),
            "fingerprints": {"dataset": task.dataset.fingerprint, "encoder": task.encoder.fingerprint},
            "device": str(self.device),
        }

    def _join(
        self,
        name: str,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        state: bytes | None,
    ) -> int:
        from condense.condensation import Condensation
        from condense.config import Hyperparameters
        from search.state import unpack_states

        self._leave(name)
        parsed = Hyperparameters.model_validate(hyperparameters)
        replicas = []
        for config in tasks:
            key, task_config, task = self._task(config)
            for seed in seeds:
                replica = Condensation(task, task_config.dpc, task_config.initialization, parsed, seed, total_steps)
                replica.key = key
                replicas.append(replica)
        if state is not None:
            for replica, own in zip(replicas, unpack_states(state), strict=True):
                replica.load_state_dict(own)
        self.members[name] = Member(replicas)
        return replicas[0].step

    def _expect(self, name: str, steps: int, waiting: Future[dict[str, Any]]) -> None:
        member = self.members[name]
        if member.waiting is not None:
            raise RuntimeError(f"{name} is being advanced already")
        member.target = member.replicas[0].step + steps
        member.waiting = waiting

    def _leave(self, name: str) -> None:
        member = self.members.pop(name, None)
        if member is not None:
            for replica in member.replicas:
                self.engine.leave(replica)
            if member.waiting is not None:
                member.waiting.set_exception(RuntimeError(f"{name} has left"))

    def _test(self, key: str) -> Any:
        from condense.tasks import load_test

        if key not in self.tests:
            self.tests[key] = load_test(self.tasks[key], self.store)
        return self.tests[key]

    def _finals(self, name: str) -> dict[str, Any]:
        from condense.engine import held_out_accuracy

        replicas = self.members[name].replicas
        return {"accuracies": held_out_accuracy(replicas, [self._test(r.key) for r in replicas])}

    def _baselines(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
        from condense.baselines import selection_accuracies

        key, parsed, task = self._task(config)
        return selection_accuracies(task, self._test(key), parsed.dpc, seeds)

    def _export(self, name: str, position: int, folder: str, record: dict[str, Any]) -> None:
        from pathlib import Path

        from condense.export import export

        replica = self.members[name].replicas[position]
        inputs = {m: x.detach().cpu() for m, x in replica.inputs.items()}
        export(Path(folder), inputs, replica.labels.cpu(), dataset=replica.task.dataset, record=record)

    def _overview(self, name: str, position: int) -> bytes:
        import io

        from condense.export import draw_overview

        replica = self.members[name].replicas[position]
        inputs = {m: x.detach().cpu() for m, x in replica.inputs.items()}
        buffer = io.BytesIO()
        draw_overview(inputs, replica.labels.cpu(), replica.task.dataset).save(buffer, "png")
        return buffer.getvalue()

    def _previews(self, name: str, position: int, most: int) -> list[dict[str, Any]]:
        from condense.data.media import preview

        replica = self.members[name].replicas[position]
        dataset = replica.task.dataset
        cards = []
        for i, label in enumerate(replica.labels.tolist()):
            if i % replica.dpc < most:
                items = {m: preview(dataset.specs[m], x[i].detach().cpu()) for m, x in replica.inputs.items()}
                cards.append(
                    {
                        "label": dataset.class_names[label],
                        "index": i,
                        "items": {m: {k.lstrip("."): v for k, v in files.items()} for m, files in items.items()},
                    }
                )
        return cards


def _diverged(member: Member) -> bool:
    return any(r.divergence is not None for r in member.replicas)


class Broker:
    """Makes one engine per (node, GPU) and hands it out. Belongs to the driver; runs as an actor of its own."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self.engines: dict[tuple[str, str], tuple[int, Any]] = {}

    def get(self, node: str, gpu: str, bad: int = 0) -> tuple[int, Any]:
        """The engine of a device, as (incarnation, handle). `bad`: the caller found this incarnation dead."""
        current = self.engines.get((node, gpu))
        if current is not None and current[0] != bad:
            return current
        incarnation = 1 if current is None else current[0] + 1
        variables = environment() | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        handle = (
            ray.remote(EngineActor)
            .options(
                num_cpus=0,
                num_gpus=0,
                max_concurrency=1000,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": variables},
            )
            .remote(self.threads)
        )
        self.engines[(node, gpu)] = (incarnation, handle)
        return self.engines[(node, gpu)]

    def work_done(self) -> int:
        """Replica-steps taken by the engines that live."""
        total = 0
        for _, handle in self.engines.values():
            try:
                total += ray.get(handle.work_done.remote(), timeout=5)
            except ray.exceptions.RayError:
                continue
        return total
