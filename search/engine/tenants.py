"""What an engine does for its tenants: tasks, replicas, steps, reports, exports. Without Ray and threads.

A tenant is a trial's or a confirmed setting's replicas (tasks x seeds), which step and report together.
`search.engine.actor` calls this from one thread.
"""

from __future__ import annotations

import functools
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from condense.config.models import Hyperparameters, TaskConfig
from condense.data.dataset import Dataset
from condense.embeddings.embeddings import Embedded, embedding_key
from condense.embeddings.encoding import Pass, embed_batches
from condense.embeddings.task import (
    Task,
    check_metric,
    embed_task,
    load_bank,
    load_data,
    load_parts,
    load_test,
    task_key,
)
from condense.encoders.protocol import Encoder
from condense.engine.engine import Engine
from condense.evaluation.coresets import judged_baselines
from condense.evaluation.diagnostics import Diagnostics
from condense.evaluation.replica_scores import full_score, held_out_items, synthetic_features, validate_items
from condense.evaluation.secondary_scores import full_secondary, secondary_scores
from condense.export.export import draw_overview, export
from condense.export.nearest import shown_as
from condense.method.condensation import Condensation
from condense.storage.store import Store
from condense.system import device_memory as memory
from condense.system.errors import UserError
from search.engine.checkpoint import pack_checkpoint, unpack_checkpoint
from search.engine.description import description, identity
from search.engine.hits import pack_judged
from search.engine.previews import cards
from search.engine.split_items import describe_items
from search.engine.state_files import LARGE, StateFiles
from search.engine.tenant import Answer, Tenant
from search.engine.tenant_lost import TenantLost
from search.space.plan import Keeping

PATIENCE = 0.25  # seconds that a call may wait for running steps
# Copies of a replica's items: inputs, velocity, square and gradient; while a batch is laid out, inputs and velocity twice.
COPIES = 6
WRITERS = 2  # threads that write large states
ROOM = 0.5  # share of the free memory; the rest is for the activations of a pass


class Tenants:
    """All tenants of one device, over one `condense.engine.engine.Engine`. Times are `time.monotonic`."""

    def __init__(self, device: torch.device, store: Store, workers: int = 1) -> None:
        """`workers`: number of the engine's workers on a CPU."""
        self.device, self.store = device, store
        self.engine = Engine(workers=workers)
        self.tenants: dict[str, Tenant] = {}
        self.replica_steps = 0
        self._at_a_time = 1  # steps between two checks of the queue
        # Where the time went.
        self.seconds: dict[str, float] = dict.fromkeys(("steps", "validation", "joins"), 0.0)
        self._datasets: dict[str, Dataset] = {}  # that were only identified
        self._parts: dict[str, tuple[Dataset, Encoder]] = {}  # of tasks that are not embedded yet
        self._tasks: dict[str, Task] = {}
        self._full: dict[tuple[str, str], float] = {}  # task, metric -> validation score of the full data
        self._tests: dict[str, Embedded] = {}
        self._encoders: dict[str, Encoder] = {}  # by fingerprint
        self._diagnostics = Diagnostics()
        self._writers = ThreadPoolExecutor(WRITERS, "state-writer")
        self.encoding: Pass | None = None  # the pass over a split that goes on now; other threads may look at it

    # Steps ---------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> list[Tenant]:
        """Tenants with a waiting call."""
        return [m for m in self.tenants.values() if m.answer is not None]

    def step(self) -> None:
        """Takes some steps of every busy tenant, and sends the reports that are due. Errors go to their tenant only."""
        busy = self.busy
        if not any(m.step >= m.target or m.diverged for m in busy):
            steps = min([self._at_a_time, *(m.target - m.step for m in busy)])
            started = time.perf_counter()
            failures = self.engine.step([r for m in busy for r in m.replicas], steps)
            taken = time.perf_counter() - started
            self.seconds["steps"] += taken
            self._at_a_time = max(1, min(2 * steps, int(PATIENCE / taken * steps)))
            self.replica_steps += steps * (sum(len(m.replicas) for m in busy) - len(failures))
            failed = {id(failure.replica): failure.error for failure in failures}
            for tenant in busy:
                error = next((failed[id(r)] for r in tenant.replicas if id(r) in failed), None)
                if error is not None:  # its replicas may be at different steps now, so it must join again
                    self.drop(tenant, error)
        due = [m for m in self.busy if m.step >= m.target or m.diverged]
        if due:
            with self._clock("validation"):
                reports = self._reports(due)
            for tenant, report in zip(due, reports, strict=True):
                self._send(tenant, report)

    def _send(self, tenant: Tenant, report: dict[str, Any]) -> None:
        """Answers with a report: at once, or when the tenant's large state is in a file, which another thread writes."""
        files, answer = tenant.files, tenant.answer
        skipped = report["checkpoint"] is not None or report["divergence"] is not None
        if files is None or answer is None or skipped or not files.is_due:
            tenant.tell(report)
            return
        began = time.monotonic()
        states = [r.state_dict() for r in tenant.replicas]
        tenant.answer, tenant.writing = None, True

        def write() -> None:
            report["checkpoint"] = files.write(report["step"], states, began)
            tenant.heard, tenant.writing = time.monotonic(), False
            answer(report, None)

        self._writers.submit(write)

    def cores(self, most: int) -> int:
        """Cores granted to all tenants together; `most` if one of them gave none."""
        granted = [m.cpus for m in self.tenants.values()]
        known = [cpus for cpus in granted if cpus is not None]
        return most if len(known) < len(granted) else max(1, min(most, math.ceil(sum(known) - 1e-6)))

    def drop_silent(self) -> None:
        """Drops tenants whose lease is over: a killed process cannot leave."""
        now = time.monotonic()
        for tenant in list(self.tenants.values()):
            waits = tenant.answer is not None or tenant.writing
            if tenant.lease is not None and not waits and now - tenant.heard > tenant.lease:
                self.drop(tenant, TenantLost("it was silent for longer than its lease"))

    def drop(self, tenant: Tenant, error: Exception) -> None:
        """Removes a tenant; its waiting call gets the error."""
        for name in [name for name, other in self.tenants.items() if other is tenant]:
            del self.tenants[name]
        for replica in tenant.replicas:
            self.engine.forget(replica)
        if tenant.files is not None:
            tenant.files.close()
        tenant.tell(None, error)

    @contextmanager
    def _clock(self, kind: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - started

    # Calls ---------------------------------------------------------------------------------------------------------

    def join(
        self,
        name: str,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        checkpoint: bytes | None,
        lease: float | None,
        cpus: float | None = None,
        secondary: Sequence[str] = (),
        resumable: bool = True,
        keeping: Keeping | None = None,
    ) -> int:
        """See `EngineActor.join`."""
        self.leave(name)
        parsed = Hyperparameters.model_validate(hyperparameters)
        replicas: list[Condensation] = []
        with self._clock("joins"):
            for config in tasks:
                key, of, task = self._task(config)
                make = functools.partial(Condensation, task, of.dpc, of.initialization, parsed, total_steps=total_steps)
                made = self.engine.each(make, list(seeds))
                for replica in made:
                    replica.key, replica.metric = key, of.metric
                replicas += made
            if checkpoint is not None:
                for replica, own in zip(replicas, unpack_checkpoint(checkpoint), strict=True):
                    replica.load_state_dict(own)
        tenant = Tenant(replicas, lease, time.monotonic(), cpus, secondary, resumable)
        if keeping is not None and tenant.size >= LARGE:
            tenant.files = StateFiles(keeping, name, tenant.size)
        self.tenants[name] = tenant
        return tenant.step

    def room(self, tasks: Sequence[dict[str, Any]]) -> int:
        """See `EngineActor.room`."""
        needed = 0
        for config in tasks:
            _, parsed, task = self._task(config)
            specs = task.dataset.specs
            items = task.dataset.num_classes * parsed.dpc
            needed += 4 * COPIES * items * sum(math.prod(specs[m].shape) for m in task.modalities)
        return max(1, int(ROOM * memory.budget(self.device) / needed))

    def advance(self, name: str, steps: int, answer: Answer) -> None:
        """Makes a tenant take `steps` more steps; `answer` gets its report. Raises TenantLost."""
        tenant = self.tenants.get(name)
        if tenant is None:
            raise TenantLost(name)
        if tenant.answer is not None:
            raise RuntimeError(f"{name} is already taking steps")
        tenant.target, tenant.answer = tenant.step + steps, answer

    def leave(self, name: str) -> None:
        """See `EngineActor.leave`."""
        tenant = self.tenants.get(name)
        if tenant is not None:
            self.drop(tenant, RuntimeError(f"{name} has left"))

    def help_encode(
        self,
        config: dict[str, Any],
        key: dict[str, Any],
        batch: int,
        take: Callable[[], range | None],
        put: Callable[[range, dict[str, torch.Tensor]], None],
    ) -> int:
        """See `EngineActor.help_encode`, and `embed_batches`."""
        dataset, encoder = self._load_parts(TaskConfig.model_validate(config))
        dataset = dataset if dataset.fold is None else dataset.fold.base  # whose items are encoded, for all folds
        split = {"condense": dataset.condense, "validation": dataset.validation}[key["split"]]
        if embedding_key(dataset, encoder, key["split"]) != key:
            raise UserError(f"{dataset.name}: the data or the encoder differs on this host")
        return embed_batches(encoder, split, self.device, batch, take, put)

    def identify(self, config: dict[str, Any]) -> dict[str, Any]:
        """See `EngineActor.identify`."""
        key = task_key(parsed := TaskConfig.model_validate(config))
        known = self._tasks[key].dataset if key in self._tasks else self._datasets.get(key)
        if known is None:
            known = self._datasets[key] = load_data(parsed)
        return identity(known.source or known)

    def describe(self, config: dict[str, Any]) -> dict[str, Any]:
        """See `EngineActor.describe`."""
        key, parsed, task = self._task(config)
        return description(parsed, task, self._full[key, parsed.metric])

    def finals(self, name: str) -> dict[str, Any]:
        """See `EngineActor.finals`."""
        replicas = self.tenants[name].replicas
        return pack_judged(held_out_items(replicas, [self._test(r.key) for r in replicas]))

    def baselines(self, config: dict[str, Any], seeds: Sequence[int]) -> dict[str, dict[str, list[Any]]]:
        """See `EngineActor.baselines`."""
        key, parsed, task = self._task(config)
        judged = judged_baselines(task, self._test(key), parsed.dpc, seeds, parsed.metric)
        return {method: pack_judged(own) for method, own in judged.items()}

    def items(self, config: dict[str, Any], split: str) -> dict[str, Any]:
        """See `EngineActor.items`."""
        _, parsed, task = self._task(config)
        return describe_items(task.dataset, split, parsed.fold)

    def export(self, name: str, position: int, folder: str, record: dict[str, Any]) -> None:
        """See `EngineActor.export`."""
        replica, inputs = self._items(name, position)
        export(
            Path(folder),
            inputs,
            replica.labels.cpu(),
            dataset=replica.task.dataset,
            record=record,
            formation=replica.hyperparameters.formation,
        )

    def overview(self, name: str, position: int) -> bytes:
        """See `EngineActor.overview`."""
        replica, inputs = self._items(name, position)
        buffer = io.BytesIO()
        draw_overview(inputs, replica.labels.cpu(), replica.task.dataset).save(buffer, "png")
        return buffer.getvalue()

    def previews(self, name: str, position: int, most: int) -> list[dict[str, Any]]:
        """See `EngineActor.previews`."""
        replica, inputs = self._items(name, position)
        dataset, shown = shown_as(replica.task.dataset, inputs)
        return cards(dataset, shown, replica.labels.tolist(), replica.dpc, most)

    # Inside --------------------------------------------------------------------------------------------------------

    def _reports(self, due: list[Tenant]) -> list[dict[str, Any]]:
        losses = [[self.engine.losses_of(r) for r in m.replicas] for m in due]
        replicas = [r for m in due for r in m.replicas]
        features = synthetic_features(replicas)
        judged = iter(validate_items(replicas, features=features))
        figures = iter(self._diagnostics.of(replicas, features))
        reports = []
        for tenant, own in zip(due, losses, strict=True):
            told = pack_judged([next(judged) for _ in tenant.replicas])
            scores = told["scores"]
            first, steps = next((r for r in tenant.replicas if r.divergence), None), min(map(len, own))
            mean = torch.stack([x[:steps].double() for x in own]).mean(0)
            reports.append(
                {
                    "step": tenant.step,
                    "accuracies": scores,
                    "hits": None if tenant.resumable else told["hits"],
                    "log_loss": told["log_loss"],
                    "shares": [v / self._full[r.key, r.metric] for v, r in zip(scores, tenant.replicas, strict=True)],
                    "secondary": {name: self._secondary(tenant, name) for name in tenant.secondary},
                    "diagnostics": [next(figures) for _ in tenant.replicas],
                    "curve": {
                        "step": list(range(tenant.step - steps + 1, tenant.step + 1)),
                        **{
                            name: mean[:, i].tolist()
                            for i, name in enumerate(("loss/uni", "loss/cross", "loss/joint", "loss"))
                        },
                    },
                    "divergence": None
                    if first is None or first.divergence is None
                    else {"step": first.divergence.step, "term": first.divergence.term, "seed": first.seed},
                    "checkpoint": checkpoint_of(tenant),
                }
            )
        return reports

    def _secondary(self, tenant: Tenant, name: str) -> list[float]:
        """Each replica's score, as a share of the full data's."""
        for replica in tenant.replicas:
            if (replica.key, name) not in self._full:
                self._full[replica.key, name] = full_secondary(replica.task, name)
        scores = secondary_scores(tenant.replicas, name)
        full = [self._full[r.key, name] for r in tenant.replicas]
        return [score / most if most > 0 else 0.0 for score, most in zip(scores, full, strict=True)]

    def _task(self, config: dict[str, Any]) -> tuple[str, TaskConfig, Task]:
        parsed = TaskConfig.model_validate(config)
        key = task_key(parsed)
        if key not in self._tasks:
            dataset, encoder = self._load_parts(parsed)
            self._tasks[key] = embed_task(
                dataset,
                encoder,
                self.store,
                self.device,
                on_pass=self._set_encoding,
                mirror=parsed.mirror,
                bank=load_bank(parsed, dataset, self.store, self.device),
            )
            del self._parts[key]
        task = self._tasks[key]
        if (key, parsed.metric) not in self._full:
            check_metric(parsed, task.dataset)
            full = full_score(task, parsed.metric)
            if not full > 0:
                raise UserError(
                    f"{task.dataset.name}: the validation {parsed.metric} of the full data is 0, "
                    "so a score, which is a share of it, cannot be computed"
                )
            self._full[key, parsed.metric] = full
        return key, parsed, task

    def _set_encoding(self, work: Pass | None) -> None:
        self.encoding = work

    def _load_parts(self, config: TaskConfig) -> tuple[Dataset, Encoder]:
        """Dataset and encoder of a task, kept after helping to encode: a large dataset takes long to read."""
        key = task_key(config)
        if key not in self._parts:
            dataset, encoder = load_parts(config, self.store, self.device, self._datasets.pop(key, None))
            # Folds of which the encoder learns nothing share it: its weights, and its passes.
            self._parts[key] = dataset, self._encoders.setdefault(encoder.fingerprint, encoder)
        return self._parts[key]

    def _test(self, key: str) -> Embedded:
        if key not in self._tests:
            self._tests[key] = load_test(self._tasks[key], self.store, on_pass=self._set_encoding)
        return self._tests[key]

    def _items(self, name: str, position: int) -> tuple[Condensation, dict[str, torch.Tensor]]:
        replica = self.tenants[name].replicas[position]
        return replica, {m: x.detach().cpu() for m, x in replica.inputs.items()}


def checkpoint_of(tenant: Tenant) -> bytes | None:
    """What a report carries to continue from: the state, if that is not kept in files; nothing (b"") after the last step."""
    if not tenant.resumable:
        return None
    if tenant.files is not None:
        return b"" if tenant.has_arrived else None
    return pack_checkpoint([r.state_dict() for r in tenant.replicas])
