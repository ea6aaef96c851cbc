"""The one thread that talks to MLflow: it creates runs, sends batches, isolates refusals and waits out outages.

Callers append to `Run.unsent` under `Writer.changed` and never wait. Every request may be repeated: a metric point is a
row whose key is all of its values, and a run is looked for by its tags before its creation is tried again.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from search.tracking.store import causes, reason

if TYPE_CHECKING:  # importing mlflow costs more than a second: only functions do it
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

logger = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_SECONDS = 1.0  # reports that arrive within this time share a request
LONGEST_PAUSE = 10.0  # seconds between two attempts during an outage
UNCLEAR_ATTEMPTS = 3  # failures that may be the item's or the server's, before the server is asked if it is well
ARTIFACT_ATTEMPTS = 6  # the artifact store may be away for ever while MLflow itself answers
MAX_BATCH, MAX_PARAMS, MAX_TAGS = 1000, 100, 100  # MLflow's limits for one log_batch

FULL_DISK = ("database or disk is full", "No space left on device")
BUSY = re.compile(r"too many (429|502|503|504) error responses")  # how MLflow's client tells the status, in the end
AWAY_CODES = {
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ENDPOINT_NOT_FOUND",  # a proxy whose server is restarting
    "UNAUTHENTICATED",  # an expired token concerns every item, so dropping items would not help
    "CUSTOMER_UNAUTHORIZED",
    "PERMISSION_DENIED",
}
REFUSED_CODES = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "ALREADY_EXISTS",
    "NOT_IMPLEMENTED",
}


class Refused(Exception):
    """MLflow answers, but will never take this item; the message is MLflow's reason in one line. `surely`: by what it said, not
    because it failed time and again."""

    def __init__(self, why: str, surely: bool = True) -> None:
        super().__init__(why)
        self.surely = surely


class Abandoned(Exception):
    """The writer was told to stop while MLflow stayed away."""


class Item(NamedTuple):
    """One entry of a `log_batch`; `timestamp` is in milliseconds."""

    kind: Literal["param", "tag", "metric"]
    key: str
    value: str | float
    timestamp: int = 0
    step: int = 0


@dataclass
class Unsent:
    """What one run still has to be told; emptied as MLflow confirms it."""

    items: list[Item] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    status: tuple[str, int] | None = None  # MLflow's status, when (ms)


@dataclass
class Run:
    """What MLflow has, or is going to have, of the parent run (`number` None) or of a trial's run."""

    number: int | None
    name: str
    identity: dict[str, str]  # the tags it is found again by, set at creation
    started: int = 0  # ms
    run_id: str = ""  # "" until MLflow has made the run
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    last: dict[str, tuple[int, float]] = field(default_factory=dict)  # metric -> (step, value) of its last point
    lost: bool = False  # deleted in MLflow, or refused: nothing more is sent
    unsent: Unsent = field(default_factory=Unsent)


def verdict(error: BaseException) -> Literal["away", "refused", "unclear"]:
    """Whether MLflow is not there (or has too much to do), or refuses the item, or either (another 5xx, an error of the
    artifact store)."""
    import requests

    for cause in causes(error):
        if any(text in str(cause) for text in FULL_DISK):  # it answers, but can take nothing from anybody
            return "away"
        if isinstance(cause, requests.exceptions.RetryError) and BUSY.search(str(cause)):
            return "away"
        if isinstance(
            cause, requests.exceptions.RetryError | requests.HTTPError
        ):  # a status 5xx, or an artifact store's
            return "unclear"
        if isinstance(cause, requests.ConnectionError | requests.Timeout | ConnectionError | TimeoutError):
            return "away"
    code = getattr(error, "error_code", None)
    if code in AWAY_CODES:
        return "away"
    return "refused" if code in REFUSED_CODES or isinstance(error, TypeError | ValueError) else "unclear"


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
    """Writes what runs have unsent, about once a second, in a daemon thread."""

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
        self._made: list[Run] = []  # runs that this writer created
        self._thread = threading.Thread(target=self._loop, name="mlflow-writer", daemon=True)

    def start(self) -> None:
        """Starts the thread; call once."""
        self._thread.start()

    def mark(self, run: Run) -> None:
        """Says that `run` has something unsent; the caller holds `changed`."""
        self._dirty[run.number] = run

    def flush(self, timeout: float) -> bool:
        """Waits, at most `timeout` seconds, until MLflow has everything marked so far; False if it has not."""
        with self.changed:
            self._hurry = True
            self.changed.notify_all()
            return self.changed.wait_for(lambda: not (self._dirty or self._writing), timeout)

    def stop(self, timeout: float) -> bool:
        """Writes everything and ends the thread; after `timeout` seconds gives up and returns False."""
        with self.changed:
            self._stopping.set()
            self.changed.notify_all()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        self._abandoned.set()
        self._thread.join(0.2)  # out of a pause; a request in flight is left to the daemon thread
        return False

    def missing(self) -> str:
        """What MLflow has not confirmed, in words."""
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
            # The last request may have arrived, and only its answer been lost.
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
            logger.warning("MLflow refused to make the run %r, nothing of it is logged: %s", run.name, refused)

    def _send(self, run: Run, items: Sequence[Item], suspect: bool = False) -> None:
        """Logs a batch; of a refused one everything but the refused items, found by halving."""
        items = [item for item in items if item.kind != "metric" or item.key not in self._banned]
        if not items or run.lost:
            return
        try:
            self._attempt(lambda: self._log_batch(run, items), 1 if suspect else UNCLEAR_ATTEMPTS)
        except Refused as refused:
            if self._is_gone(run):
                run.lost = True
                logger.warning("MLflow no longer has the run %r: nothing more of it is logged", run.name)
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
        target = PurePosixPath(path)
        folder = str(target.parent) if target.parent.name else None
        with tempfile.TemporaryDirectory(prefix="mlflow-artifact-") as temporary:
            try:
                file = Path(temporary) / target.name
                file.write_bytes(data)
                self._attempt(
                    lambda: self._client.log_artifact(run.run_id, str(file), folder), away_attempts=ARTIFACT_ATTEMPTS
                )
            except (Refused, OSError) as error:
                logger.warning("MLflow did not take artifact %r of %r, dropped: %s", path, run.name, reason(error))

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
        """A creation that timed out, here or in a driver since killed, may have been carried out late."""
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
                    logger.warning("MLflow did not delete run %s, a double: %s", stored.info.run_id, refused)

    def _attempt(
        self,
        action: Callable[[], T],
        unclear_attempts: int = UNCLEAR_ATTEMPTS,
        away_attempts: float = float("inf"),
    ) -> T:
        """The action's result, however long MLflow stays away.

        Raises `Refused` when MLflow is there and does not take it, `Abandoned` when `stop` ran out of time.
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
                if self._away_since is None and (kind == "away" or failures >= limit):
                    self._away_since = time.monotonic()
                    logger.warning(
                        "MLflow at %s does not answer (%s): logging waits, the search goes on",
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
        else:  # the user is waiting for the end: ask often
            self._abandoned.wait(min(seconds, 1.0))


def batch_size(items: Sequence[Item]) -> int:
    """How many of the first items one `log_batch` may carry."""
    room = {"param": MAX_PARAMS, "tag": MAX_TAGS, "metric": MAX_BATCH}
    for index, item in enumerate(items[:MAX_BATCH]):
        room[item.kind] -= 1
        if room[item.kind] < 0:
            return index
    return min(len(items), MAX_BATCH)
