"""The one thread that talks to MLflow: it creates runs, sends batches, isolates refused items and waits out outages.

Callers append to `Run.unsent` under `Writer.changed` and never wait. Every request may be repeated: a metric point is a
row keyed by all of its values, and before a run's creation is retried, the run is looked up by its tags.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from search.tracking.answers import reason, verdict
from search.tracking.artifact_store import Untaken

if TYPE_CHECKING:  # importing mlflow costs more than a second: only functions do it
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

logger = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_SECONDS = 1.0  # reports that arrive within this time share a request
LONGEST_PAUSE = 10.0  # seconds between two attempts during an outage
UNCLEAR_ATTEMPTS = 3  # failures of unclear cause before the server's health is checked
ARTIFACT_ATTEMPTS = 6  # the artifact store may stay unreachable while MLflow itself answers
MAX_BATCH, MAX_PARAMS, MAX_TAGS = 1000, 100, 100  # MLflow's limits for one log_batch


class Refused(Exception):
    """MLflow answers, but will never accept this item; the message is MLflow's reason in one line. `surely`: it said so, rather
    than failing repeatedly."""

    def __init__(self, why: str, surely: bool = True) -> None:
        super().__init__(why)
        self.surely = surely


class Abandoned(Exception):
    """The writer was stopped while MLflow was unreachable."""


class Item(NamedTuple):
    """One entry of a `log_batch`; `timestamp` is in milliseconds."""

    kind: Literal["param", "tag", "metric"]
    key: str
    value: str | float
    timestamp: int = 0
    step: int = 0


@dataclass
class Unsent:
    """Items that one run still has to send; removed as MLflow confirms them."""

    items: list[Item] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    status: tuple[str, int] | None = None  # MLflow's status, when (ms)


@dataclass
class Run:
    """The parent run (`number` None) or a trial's run, as MLflow has it or will have it."""

    number: int | None
    name: str
    identity: dict[str, str]  # tags that identify it, set at creation
    started: int = 0  # ms
    run_id: str = ""  # "" until MLflow has created the run
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    last: dict[str, tuple[int, float]] = field(default_factory=dict)  # metric -> (step, value) of its last point
    lost: bool = False  # deleted in MLflow, or refused: nothing more is sent
    unsent: Unsent = field(default_factory=Unsent)


def same_run(client: MlflowClient, experiment_id: str, identity: dict[str, str]) -> list[StoredRun]:
    """The undeleted runs of an experiment that carry these tags."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
    found: list[StoredRun] = []
    token = None
    while True:
        # Small pages: a run brings all its parameters, tags and last metrics, within one request's timeout.
        page = client.search_runs([experiment_id], query, max_results=200, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


class Writer:
    """Sends the unsent items of all runs, about once a second, in a daemon thread."""

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        where: str,  # the tracking URI as messages show it
    ) -> None:
        self.changed = threading.Condition()  # guards every Run's fields but run_id and lost, and the ones below
        self._dirty: dict[int | None, Run] = {}
        self._writing: list[tuple[Run, Unsent]] = []
        self._hurry = False
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._client = client
        self._experiment_id = experiment_id
        self._where = where
        self._away_since: float | None = None
        self._banned: set[str] = set()  # metric names that MLflow refuses
        self._untaken = Untaken()
        self._made: list[Run] = []  # runs that this writer created
        self._thread = threading.Thread(target=self._loop, name="mlflow-writer", daemon=True)

    def start(self) -> None:
        """Starts the thread; call once."""
        self._thread.start()

    def mark(self, run: Run) -> None:
        """Marks `run` as having unsent items; the caller holds `changed`."""
        self._dirty[run.number] = run

    def flush(self, timeout: float) -> bool:
        """Waits, at most `timeout` seconds, until MLflow has everything marked so far; returns False otherwise."""
        with self.changed:
            self._hurry = True
            self.changed.notify_all()
            return self.changed.wait_for(lambda: not (self._dirty or self._writing), timeout)

    def stop(self, timeout: float) -> bool:
        """Sends everything and ends the thread; gives up after `timeout` seconds and returns False."""
        with self.changed:
            self._stopping.set()
            self.changed.notify_all()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        self._abandoned.set()
        self._thread.join(0.2)  # ends a pause; a request in flight is left to the daemon thread
        return False

    def missing(self) -> str:
        """The items that MLflow has not confirmed, as text."""
        with self.changed:
            todo = [*self._writing, *((run, run.unsent) for run in self._dirty.values())]
        runs = {run.number for run, _ in todo if not run.run_id}
        kinds = Counter(item.kind for _, unsent in todo for item in list(unsent.items))
        counts = {
            "runs": len(runs),
            "metric points": kinds["metric"],
            "parameters and tags": kinds["param"] + kinds["tag"],
            "artifacts": sum(len(unsent.artifacts) for _, unsent in todo),
            "run states": sum(unsent.status is not None for _, unsent in todo),
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing"

    def _loop(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._hurry or self._stopping.is_set(), FLUSH_SECONDS)
                for run in self._dirty.values():
                    self._writing.append((run, run.unsent))
                    run.unsent = Unsent()
                self._dirty.clear()
                if not self._writing:
                    self._hurry = False
                    self.changed.notify_all()
            try:
                if not self._writing and self._stopping.is_set():
                    self._untaken.end()
                    return self._remove_doubles()
                while self._writing:
                    self._write(*self._writing[0])
                    del self._writing[0]
            except Abandoned:
                return
            except Exception as error:
                logger.warning("MLflow: one run's entries were dropped (%s)", reason(error))
                del self._writing[:1]

    def _write(self, run: Run, unsent: Unsent) -> None:
        if not (run.run_id or run.lost):
            self._create(run)
        while unsent.items and not run.lost:
            size = batch_size(unsent.items)
            self._send(run, unsent.items[:size])
            del unsent.items[:size]
        for path in list(unsent.artifacts):
            if not run.lost:
                self._keep(run, path, unsent.artifacts[path])
            del unsent.artifacts[path]
        if unsent.status and not run.lost:
            self._set_status(run, *unsent.status)
        unsent.status = None

    def _create(self, run: Run) -> None:
        attempts = 0

        def create() -> StoredRun:
            nonlocal attempts
            attempts += 1
            # The last request may have arrived, with only its answer lost.
            if attempts > 1 and (found := same_run(self._client, self._experiment_id, run.identity)):
                return found[0]
            return self._client.create_run(
                self._experiment_id, start_time=run.started, tags=run.identity, run_name=run.name
            )

        try:
            run.run_id = self._attempt(create).info.run_id
            self._made.append(run)
        except Refused as refused:
            run.lost = True
            logger.warning("MLflow refused to create the run %r, so nothing is logged for it: %s", run.name, refused)

    def _send(self, run: Run, items: Sequence[Item], suspect: bool = False) -> None:
        """Logs a batch. If it is refused, finds the refused items by halving and logs all others."""
        items = [item for item in items if item.kind != "metric" or item.key not in self._banned]
        if not items or run.lost:
            return
        try:
            self._attempt(lambda: self._log_batch(run, items), 1 if suspect else UNCLEAR_ATTEMPTS)
        except Refused as refused:
            if self._is_gone(run):
                run.lost = True
                logger.warning("MLflow no longer has the run %r: nothing more is logged for it", run.name)
            elif len(items) == 1:
                item = items[0]
                if item.kind == "metric" and refused.surely:
                    self._banned.add(item.key)
                logger.warning("MLflow refused %s %r of %r, dropped: %s", item.kind, item.key, run.name, refused)
            else:
                middle = len(items) // 2
                self._send(run, items[:middle], suspect=True)
                self._send(run, items[middle:], suspect=True)

    def _log_batch(self, run: Run, items: Sequence[Item]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run.run_id,
            metrics=[Metric(i.key, float(i.value), i.timestamp, i.step) for i in items if i.kind == "metric"],
            params=[Param(i.key, str(i.value)) for i in items if i.kind == "param"],
            tags=[RunTag(i.key, str(i.value)) for i in items if i.kind == "tag"],
        )

    def _keep(self, run: Run, path: str, data: bytes) -> None:
        if self._untaken.waits:
            return self._untaken.skip()
        target = PurePosixPath(path)
        folder = str(target.parent) if target.parent.name else None
        attempts = self._untaken.attempts(UNCLEAR_ATTEMPTS), self._untaken.attempts(ARTIFACT_ATTEMPTS)
        with tempfile.TemporaryDirectory(prefix="mlflow-artifact-") as temporary:
            try:
                file = Path(temporary) / target.name
                file.write_bytes(data)
                self._attempt(lambda: self._client.log_artifact(run.run_id, str(file), folder), *attempts, is_file=True)
            except (Refused, OSError) as error:
                if not isinstance(error, Refused) or error.surely:
                    logger.warning("MLflow did not take artifact %r of %r, dropped: %s", path, run.name, reason(error))
                else:
                    self._untaken.add(path, run.name, reason(error))
            else:
                self._untaken.taken()

    def _set_status(self, run: Run, status: str, when: int) -> None:
        try:
            if status == "RUNNING":
                self._attempt(lambda: self._client.update_run(run.run_id, status))
            else:
                self._attempt(lambda: self._client.set_terminated(run.run_id, status, when))
        except Refused as refused:
            logger.warning("MLflow refused the state %s of %r: %s", status, run.name, refused)

    def _is_gone(self, run: Run) -> bool:
        try:
            return self._attempt(lambda: self._client.get_run(run.run_id)).info.lifecycle_stage != "active"
        except Refused:
            return True

    def _remove_doubles(self) -> None:
        """Deletes duplicates: a creation that timed out, here or in a killed driver, may have succeeded late."""
        if not self._made:
            return
        mine = {run.identity["trial_number"]: run.run_id for run in self._made}
        search = {"search_id": self._made[0].identity["search_id"]}
        for stored in self._attempt(partial(same_run, self._client, self._experiment_id, search)):
            number = stored.data.tags.get("trial_number", "")
            if number in mine and stored.info.run_id != mine[number]:
                try:
                    self._attempt(partial(self._client.delete_run, stored.info.run_id))
                except Refused as refused:
                    logger.warning("MLflow did not delete the duplicate run %s: %s", stored.info.run_id, refused)

    def _attempt(
        self,
        action: Callable[[], T],
        unclear_attempts: int = UNCLEAR_ATTEMPTS,
        away_attempts: float = float("inf"),
        is_file: bool = False,
    ) -> T:
        """The action's result, however long MLflow is unreachable. `is_file`: it may be the store of artifacts that is.

        Raises `Refused` if MLflow answers but refuses it, `Abandoned` when `stop` ran out of time.
        """
        failures = 0
        while not self._abandoned.is_set():
            try:
                result = action()
            except Exception as error:
                failures += 1
                kind = verdict(error)
                limit = {"refused": 0, "unclear": unclear_attempts, "away": away_attempts}[kind]
                if failures >= limit and (kind == "refused" or self._answers()):
                    raise Refused(reason(error), surely=kind == "refused") from error
                is_away = kind == "away" or failures >= limit
                if self._away_since is None and is_away and not (is_file and self._answers()):
                    self._away_since = time.monotonic()
                    logger.warning(
                        "MLflow at %s does not answer (%s): the search continues, logging waits",
                        self._where,
                        reason(error),
                    )
                self._pause(failures)
            else:
                if self._away_since is not None:
                    away, self._away_since = time.monotonic() - self._away_since, None
                    logger.warning("MLflow at %s answers again after %.0f s: nothing was lost", self._where, away)
                return result
        raise Abandoned

    def _answers(self) -> bool:
        try:
            self._client.get_experiment(self._experiment_id)
        except Exception:
            return False
        return True

    def _pause(self, failures: int) -> None:
        seconds = min(0.5 * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
        if not self._stopping.is_set():
            self._stopping.wait(seconds)
        else:  # the user waits for the end: retry often
            self._abandoned.wait(min(seconds, 1.0))


def batch_size(items: Sequence[Item]) -> int:
    """How many of the first items fit into one `log_batch`."""
    room = {"param": MAX_PARAMS, "tag": MAX_TAGS, "metric": MAX_BATCH}
    for index, item in enumerate(items[:MAX_BATCH]):
        room[item.kind] -= 1
        if room[item.kind] < 0:
            return index
    return min(len(items), MAX_BATCH)
