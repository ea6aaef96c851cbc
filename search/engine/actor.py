"""The engine as one Ray actor per GPU, or per node without one.

One thread of the actor does all work on the device; calls are queued for it and wait. Between two steps it handles the
queue: that is when replicas join and leave.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import ray

from condense.system.errors import UserError
from condense.system.process import cores, prepare_process
from search.engine.state_files import discard
from search.space.plan import Keeping

LEASE = 120.0  # seconds that a trial may be silent between two reports
LEASE_CHECK = 5.0  # seconds between two checks for silent tenants


class EngineActor:
    """Runs on the node whose device it uses. See `condense.engine.engine.Engine` for what is shared."""

    def __init__(self, threads: int | None, pool: Any = None, gpu: str = "") -> None:
        """`pool`: provides cache entries that this node lacks (`EnginePool.entry`). `gpu`: the GPU, by Ray's name, if any."""
        prepare_process()
        import torch

        from condense.storage.store import Store
        from search.engine.tenants import Tenants

        self.threads = threads or default_threads(cores())
        fetch = None if pool is None else (lambda kind, name: ray.get(pool.entry.remote(kind, name)))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.trouble = ""  # why this engine cannot work
        if gpu and device.type != "cuda":
            host = socket.gethostname()
            self.trouble = f"Ray counts GPU {gpu} on {host}, but PyTorch {torch.__version__} there cannot use it"
        prove(device)
        self.tenants = Tenants(device, Store(fetch=fetch), self.threads)
        self.inbox: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        self.started = self.last_used = time.monotonic()
        self.working = False  # on a call
        threading.Thread(target=self._work, daemon=True, name="engine").start()

    def why_unfit(self) -> str:
        """Why this engine cannot work; empty if it can. To be answered, it has started."""
        return self.trouble

    # Calls ---------------------------------------------------------------------------------------------------------

    def identify(self, task: dict[str, Any]) -> dict[str, Any]:
        """What a task's data are, before anything is computed of them: {name, fingerprint, content}. Raises UserError if they
        cannot be read, or the encoder does not take them."""
        return self._do(lambda: self.tenants.identify(task))  # type: ignore[no-any-return]

    def describe(self, task: dict[str, Any]) -> dict[str, Any]:
        """Loads a task and returns what the driver needs to know about it."""
        return self._do(lambda: self.tenants.describe(task))

    def join(
        self,
        tenant: str,
        tasks: Sequence[dict[str, Any]],
        hyperparameters: dict[str, Any],
        seeds: Sequence[int],
        total_steps: int,
        checkpoint: bytes | None,
        lease: float | None = None,
        cpus: float | None = None,
        secondary: Sequence[str] = (),
        resumable: bool = True,
        keeping: Keeping | None = None,
    ) -> int:
        """Adds replicas (tasks x seeds), at `checkpoint` if given; returns the step they are at. Joining twice starts anew.

        A tenant that is silent for `lease` seconds is dropped; it may join again. `cpus`: the cores granted to it. An engine
        on a CPU uses the sum over its tenants, or all cores if one of them gives none.
        `secondary`: further scores in its reports (`condense.evaluation.secondary_scores`). A tenant that is not
        `resumable` gets reports without a checkpoint, which can be large, but with `hits`: the values of the validation items
        of each replica (`search.engine.hits`), or None. `keeping`: a state that is too large for reports is written to files;
        a report without one then has no checkpoint, and that after the last step an empty one.

        Raises StateLost if the file that `checkpoint` names is not to be had, StateUnreachable if what keeps it does not answer.
        """
        arguments = tenant, tasks, hyperparameters, seeds, total_steps, checkpoint, lease, cpus, secondary, resumable
        return self._do(lambda: self.tenants.join(*arguments, keeping))

    def discard(self, keeping: Keeping) -> None:
        """Deletes all states of a search in files that can be seen from this node, also those that are being written."""
        for tenant in list(self.tenants.tenants.values()):  # of trials that have ended: this may overtake their `leave`
            if tenant.files is not None and tenant.files.search == keeping.search:
                tenant.files.close()
        discard(keeping)

    def room(self, tasks: Sequence[dict[str, Any]]) -> int:
        """How many seeds (replicas of all `tasks`) fit into memory at a time now, at least 1. Loads the tasks."""
        return self._do(lambda: self.tenants.room(tasks))

    def advance(self, tenant: str, steps: int) -> dict[str, Any]:
        """Takes `steps` steps and validates; a report with the checkpoint to continue from (`search.tuning.trainable`).

        Raises TenantLost if it has not joined, or was dropped.
        """
        waiting: Future[dict[str, Any]] = Future()

        def answer(report: dict[str, Any] | None, error: Exception | None) -> None:
            if error is not None:
                end_if_broken(error)
                waiting.set_exception(error)
            elif report is not None:
                waiting.set_result(report)

        self._do(lambda: self.tenants.advance(tenant, steps, answer))
        return waiting.result()

    def leave(self, tenant: str) -> None:
        """Drops a tenant; unknown ones are ignored."""
        self._do(lambda: self.tenants.leave(tenant))

    def finals(self, tenant: str) -> dict[str, Any]:
        """Opens the test split: {scores, hits, log_loss}, each replica's score by its task's metric and its items' values
        (`search.engine.hits`), or None. Called at the end of a search only."""
        return self._do(lambda: self.tenants.finals(tenant))

    def baselines(self, task: dict[str, Any], seeds: Sequence[int]) -> dict[str, dict[str, list[Any]]]:
        """Opens the test split: method -> {scores, hits} of coresets (chosen real items) and of the full data."""
        return self._do(lambda: self.tenants.baselines(task, seeds))

    def items(self, task: dict[str, Any], split: str) -> dict[str, Any]:
        """What the items of `condense`, `validation` or `test` are: see `search.engine.split_items.describe_items`."""
        return self._do(lambda: self.tenants.items(task, split))

    def export(self, tenant: str, position: int, folder: str, record: dict[str, Any]) -> None:
        """Writes the synthetic items of one replica to `folder` (on this node)."""
        self._do(lambda: self.tenants.export(tenant, position, folder, record))

    def previews(self, tenant: str, position: int, most: int) -> list[dict[str, Any]]:
        """The first items of each class of one replica: label, index, modality -> {png, wav, txt}."""
        return self._do(lambda: self.tenants.previews(tenant, position, most))

    def overview(self, tenant: str, position: int) -> bytes:
        """A contact sheet of one replica's items, as PNG."""
        return self._do(lambda: self.tenants.overview(tenant, position))

    def account(self) -> dict[str, float]:
        """Seconds since the engine started (`alive`), and seconds spent on steps, validation and joins."""
        return {"alive": time.monotonic() - self.started, **self.tenants.seconds}

    def idle_seconds(self) -> float:
        """Seconds without a tenant or a call."""
        return 0.0 if self.working or self.tenants.tenants else time.monotonic() - self.last_used

    # Encoding with others ------------------------------------------------------------------------------------------

    def encoding_status(self) -> dict[str, Any] | None:
        """The split that this engine is encoding, if that has taken long enough to be worth a line; else None.

        `line`: how far it is; `seconds_left`; `key` of the entry and items per `batch`, which `help_encode` needs.
        """
        work = self.tenants.encoding
        if work is None or not work.progress.is_due:
            return None
        progress = work.progress
        return {"line": progress.line(), "seconds_left": progress.seconds_left, "key": work.key, "batch": work.batch}

    def help_encode(self, task: dict[str, Any], status: dict[str, Any], other: Any) -> int:
        """Encodes batches of what the engine `other` is encoding (its `encoding_status`) until none are left.

        Returns the number of items. Raises UserError if the task's data cannot be read here, or is not the same here.
        """
        key, worker = status["key"], ray.get_runtime_context().get_actor_id()

        def take() -> range | None:
            return ray.get(other.take_batch.remote(key, worker))  # type: ignore[no-any-return]

        def put(items: range, embedded: dict[str, Any]) -> None:
            ray.get(other.put_batch.remote(key, items, embedded))

        help_encode = self.tenants.help_encode
        return self._do(lambda: help_encode(task, key, status["batch"], take, put))  # type: ignore[no-any-return]

    def take_batch(self, key: dict[str, Any], worker: str) -> range | None:
        """A batch for another engine of the split that this one is encoding; None if that is not `key` any more."""
        work = self.tenants.encoding
        return work.take(worker) if work is not None and work.key == key else None

    def put_batch(self, key: dict[str, Any], items: range, embedded: dict[str, Any]) -> None:
        """Takes in a batch that another engine has encoded."""
        work = self.tenants.encoding
        if work is not None and work.key == key:
            work.put(items, embedded)

    # The engine's thread -------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], Any]) -> Any:
        if self.trouble:
            raise UserError(self.trouble)
        done: Future[Any] = Future()
        self.inbox.put((work, done))
        return done.result()

    def _work(self) -> None:
        """Ends the process if the thread fails: otherwise its tenants would wait forever; now they continue in another engine."""
        try:
            self._serve()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _serve(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        looked = time.monotonic()
        while True:
            self._take_calls()
            if time.monotonic() - looked > LEASE_CHECK:
                self.tenants.drop_silent()
                looked = time.monotonic()
            busy = self.tenants.busy
            if not busy:
                continue
            if (threads := self.tenants.cores(self.threads)) != torch.get_num_threads():
                torch.set_num_threads(threads)
                self.tenants.engine.workers = threads
            try:
                self.tenants.step()
            except Exception as error:  # a report failed: the trials get the error and start again
                end_if_broken(error)
                for tenant in busy:
                    self.tenants.drop(tenant, error)

    def _take_calls(self) -> None:
        """Handles the queued calls; waits for one if there is nothing else to do."""
        patience = None if self.tenants.busy else LEASE_CHECK
        while True:
            try:
                work, done = self.inbox.get(block=patience is not None, timeout=patience)
            except queue.Empty:
                return
            patience = None
            self.working = True
            try:
                done.set_result(work())
            except BaseException as error:
                end_if_broken(error)
                done.set_exception(error)
            self.working, self.last_used = False, time.monotonic()


def prove(device: Any) -> None:
    """Raises what PyTorch does on a device that is there but cannot compute, or RuntimeError if it computes wrongly."""
    import torch

    ones = torch.ones(64, 64, device=device)
    if (found := (ones @ ones).sum().item()) != 64**3:
        raise RuntimeError(f"{device} adds {64**3} ones up to {found}")


def end_if_broken(error: BaseException) -> None:
    """Ends this process, without notice to its tenants, if its GPU context is broken: each of them continues from its last
    report in another engine."""
    from condense.system.device_errors import is_broken

    if is_broken(error):
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def default_threads(cores: int) -> int:
    """Threads of an engine on a CPU with so many cores. They work in lockstep, so a thread that shares its core delays all
    others: if there are cores to spare, one is left to the driver, Ray and the trial processes."""
    return cores - 1 if cores > 4 else cores
