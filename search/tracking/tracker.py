"""MLflow as a search uses it: one parent run per search, one child run per trial, each exactly once.

The driver calls `MlflowTracker`, which only queues: MLflow may be slow or unreachable for hours without delaying the
search. `reconcile` sends from the ledger whatever MLflow lacks at the end, or after the driver was killed: runs are found
by their tags `search_id` and `trial_number`, and of each metric only steps later than the last logged one are sent.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from condense.system.errors import UserError
from search.tracking.answers import masked, reason, verdict
from search.tracking.shared_view import SharedView, log10_of
from search.tracking.store import (
    absolute_uri,
    active_experiment,
    check_tracking,
    connect,
    database_path,
    default_tracking_uri,
)
from search.tracking.writer import Item, Run, Writer, same_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

    from search.ledger.ledger import TrialRecord

__all__ = ["MlflowTracker", "check_tracking", "default_tracking_uri"]
logger = logging.getLogger(__name__)

ATTEMPTS, PAUSE = 3, 1.0  # to begin; seconds between two
CURVE_POINTS = 100  # of a trial, by metric; MLflow takes milliseconds for each ten
LONGEST_VALUE = 5000  # characters of a parameter or tag; MLflow takes 6000 and 8000, older servers 5000 of a tag
# How a trial or a search ended -> MLflow's state of its run. The word itself is kept in the tag `status`.
RUN_STATUS = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "stopped": "KILLED",
}


class MlflowTracker:
    """Logs one search. Every method but `start`, `flush` and `finish` returns at once and raises no MLflow errors.

    A value that is not finite never becomes a metric point (MLflow draws infinity as 1.8e308): the first one of each
    metric is noted in the tag `non_finite/<metric>`. Items that MLflow refuses are dropped with a warning that names them.
    """

    def __init__(
        self,
        uri: str,  # as given or from `default_tracking_uri`
        experiment: str,
        search_id: str,  # unique and permanent: the parent run is found again by it
        name: str,  # of the parent run
        steps: int = CURVE_POINTS,  # of the longest trial
    ) -> None:
        self.uri = absolute_uri(uri)  # may hold credentials; `where` does not
        self.where = masked(self.uri)
        self.experiment = experiment
        self._every = math.ceil(steps / CURVE_POINTS)
        self.experiment_id: str | None = None  # known after `start`
        self._search_id = search_id
        self._parent = Run(None, name, {"search_id": search_id, "role": "search"})
        self._trials: dict[int, Run] = {}
        self._view: SharedView | None = None
        self._writer: Writer | None = None

    @property
    def run_id(self) -> str | None:
        """The parent run's id; None before `start`."""
        return self._parent.run_id or None

    @property
    def view(self) -> str | None:
        """The key of the view that the UI shows (`SharedView`); None if MLflow has not taken it."""
        return None if self._view is None else self._view.key

    def start(self, params: Mapping[str, Any], tags: Mapping[str, Any], view: SharedView | None = None) -> None:
        """Finds or creates the parent run, loads this search's runs from MLflow, and starts the writer. `view`: what a link to
        the UI shows.

        Raises UserError if MLflow does not answer or refuses.
        """
        for more in reversed(range(ATTEMPTS)):
            try:
                client = connect(self.uri)
                self.experiment_id = experiment_id = self._find_experiment(client)
                self._find_or_make_parent(client, experiment_id)
                break
            except UserError:
                raise
            except Exception as error:
                if more and verdict(error) == "away":  # a connection that broke: all of this may be repeated
                    time.sleep(PAUSE)
                    continue
                raise UserError(f"tracking URI {self.where}: {reason(error)}") from error
        self._share(client, view)
        self._parent.status = "RUNNING"
        self._writer = Writer(client, experiment_id, self.where)
        self._writer.start()
        with self._writer.changed:
            for run in self._trials.values():  # the parent may have been deleted and created again above
                self._add_tags(run, {"mlflow.parentRunId": self._parent.run_id})
        self.log_parent({}, params, {**tags, "status": "running"})

    def trial_started(
        self,
        number: int,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        config: Mapping[str, Any],  # becomes the artifact config.yaml
        name: str | None = None,  # shown in the UI; "trial 0012" if None
        timestamp: float | None = None,  # unix seconds; now if None
    ) -> None:
        """Creates the trial's run, or continues the existing one."""
        if self._writer is None:
            return
        with self._writer.changed:
            run = self._trial(number, name, timestamp)
            self._describe(run, params, {**tags, "status": "running"}, config)
            if run.status != "RUNNING":
                self._set_status(run, "RUNNING", timestamp)

    def trial_reported(
        self,
        number: int,
        step: int,
        metrics: Mapping[str, float],
        curve: Mapping[str, Sequence[float]] | None = None,  # "step" and one list per metric, all of one length
        timestamp: float | None = None,  # unix seconds; now if None
    ) -> None:
        """Logs one report and the curve up to it. If both have a metric at a step, the curve's value counts. A long trial's curve
        is thinned, to some hundred points in all: the ledger has the whole one."""
        if self._writer is None:
            return
        with self._writer.changed:
            run = self._trial(number)
            at = list((curve or {}).get("step", ()))
            kept = [i for i, own in enumerate(at) if own % self._every == 0 or i + 1 == len(at)]
            for key, values in (curve or {}).items():
                if key != "step":
                    for i in kept[: len(values)]:
                        self._add_point(run, key, at[i], values[i], timestamp)
            for key, value in metrics.items():
                if key != "step":  # the axis of every other metric
                    self._add_point(run, key, step, value, timestamp)

    def trial_finished(
        self,
        number: int,
        status: str,  # completed, pruned or failed
        metrics: Mapping[str, float],  # logged at the trial's last step, unless reported there
        error: str | None = None,
        artifacts: Mapping[str, bytes] | None = None,  # path in the run -> content
        timestamp: float | None = None,  # unix seconds; now if None
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Closes the trial's run as FINISHED (completed), KILLED (pruned) or FAILED (failed)."""
        if self._writer is None:
            return
        with self._writer.changed:
            run = self._trial(number)
            last_step = max((step for step, _ in run.last.values()), default=0)
            for key, value in metrics.items():
                self._add_point(run, key, last_step, value, timestamp)
            self._add_tags(run, {**(tags or {}), "status": status, **({"error": error} if error else {})})
            for path, data in (artifacts or {}).items():
                self._add_artifact(run, path, data)
            if run.status != RUN_STATUS.get(status, status):
                self._set_status(run, RUN_STATUS.get(status, status), timestamp)

    def log_artifact(self, number: int | None, path: str, data: bytes) -> None:
        """Stores a file in the run of a trial, or of the search for None; replaces a file of the same path."""
        if self._writer is None:
            return
        with self._writer.changed:
            self._add_artifact(self._parent if number is None else self._trial(number), path, data)

    def log_parent(
        self,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        step: int | None = None,  # None: the step after the metric's last, and only if the value changed
        timestamp: float | None = None,  # unix seconds; now if None
    ) -> None:
        """Logs to the search's own run. A parameter cannot be changed later; a tag can."""
        if self._writer is None:
            return
        with self._writer.changed:
            for key, value in metrics.items():
                last_step, last_value = self._parent.last.get(key, (-1, None))
                if step is not None or last_value != value:
                    self._add_point(self._parent, key, last_step + 1 if step is None else step, value, timestamp)
            self._add_params(self._parent, params)
            self._add_tags(self._parent, tags)

    def reconcile(
        self,
        trials: Iterable[TrialRecord],
        tags: Callable[[TrialRecord], Mapping[str, Any]] = lambda record: {},  # as given to `trial_started`
        metrics: Callable[[TrialRecord], Mapping[str, float]] = lambda record: {},  # as given to `trial_finished`
    ) -> None:
        """Sends MLflow whatever it lacks of the ledger's trials, and nothing twice.

        A trial that has not ended keeps its state in MLflow until `trial_started`.
        """
        if self._writer is None:
            return
        for record in trials:
            with self._writer.changed:
                run = self._trial(record.number, record.name, record.created)
                # A run's status is set last, so if it is right, nothing is missing.
                if run.status == RUN_STATUS.get(record.status) and run.tags.get("status") == record.status:
                    continue
                self._describe(run, record.params, tags(record), record.config)
            for report in record.reports:
                self.trial_reported(record.number, report.step, report.metrics, report.curve, report.time)
            if record.status in RUN_STATUS:
                self.trial_finished(
                    record.number, record.status, metrics(record), record.error, timestamp=record.finished
                )

    def flush(self, timeout: float) -> bool:
        """Waits, at most `timeout` seconds, until MLflow has everything logged so far; returns False otherwise."""
        return self._writer is None or self._writer.flush(timeout)

    def finish(self, status: str, timeout: float) -> bool:
        """Closes every run, waits until MLflow has everything, and ends the writer.

        After `timeout` seconds, warns in one line what MLflow lacks and returns False. Running trials are marked as
        interrupted. `status` is completed, interrupted, stopped or failed.
        """
        if self._writer is None:
            return True
        with self._writer.changed:
            for run in self._trials.values():
                if run.status == "RUNNING":
                    self._add_tags(run, {"status": "interrupted"})
                    self._set_status(run, RUN_STATUS["interrupted"], None)
            self._add_tags(self._parent, {"status": status})
            self._set_status(self._parent, RUN_STATUS.get(status, status), None)
        writer, self._writer = self._writer, None
        if writer.stop(timeout):
            return True
        logger.warning(
            "MLflow at %s did not take everything within %.0f s: %s are missing there; --resume sends them again",
            *(self.where, timeout, writer.missing()),
        )
        return False

    def _share(self, client: MlflowClient, view: SharedView | None) -> None:
        """Prepares the view, unless the server refuses tags of experiments: a link then shows the page as it is."""
        if view is None or view.tag is None:
            return
        try:
            client.set_experiment_tag(str(self.experiment_id), *view.tag)
        except Exception as error:
            logger.info("MLflow at %s takes no shared view: %s", self.where, reason(error))
            return
        self._view = view

    def _find_or_make_parent(self, client: MlflowClient, experiment_id: str) -> None:
        self._load(client, same_run(client, experiment_id, {"search_id": self._search_id}))
        if not self._parent.run_id:
            made = client.create_run(experiment_id, tags=self._parent.identity, run_name=self._parent.name)
            self._parent.run_id = made.info.run_id
        elif self._parent.status != "RUNNING":
            client.update_run(self._parent.run_id, "RUNNING")

    def _find_experiment(self, client: MlflowClient) -> str:
        found = active_experiment(client, self.experiment, self.uri)
        if found is None:
            path = database_path(self.uri) if self.uri.startswith("sqlite") else None
            # Beside the database: MLflow's default is a folder in the current directory of the process.
            location = (path.parent / "mlartifacts").as_uri() if path else None
            try:
                return client.create_experiment(self.experiment, artifact_location=location)
            except Exception:  # another search created it meanwhile
                if (found := active_experiment(client, self.experiment, self.uri)) is None:
                    raise
        return found

    def _load(self, client: MlflowClient, stored: Sequence[StoredRun]) -> None:
        """Takes over the runs of this search. Of several runs of one trial, keeps the fullest and deletes the others."""
        groups: dict[int | None, list[StoredRun]] = {}
        for found in stored:
            number = found.data.tags.get("trial_number", "")
            if number.isdecimal() or found.data.tags.get("role") == "search":
                groups.setdefault(int(number) if number.isdecimal() else None, []).append(found)
        for key, same in groups.items():
            points = {found.info.run_id: found.data.to_proto().metrics for found in same}
            best, *others = sorted(same, key=lambda found: -sum(point.step for point in points[found.info.run_id]))
            for other in others:
                client.delete_run(other.info.run_id)
            run = self._parent if key is None else self._trial(key)
            run.run_id, run.status = best.info.run_id, best.info.status
            run.params, run.tags = dict(best.data.params), dict(best.data.tags)
            run.last = {point.key: (point.step, point.value) for point in points[run.run_id]}

    def _trial(self, number: int, name: str | None = None, timestamp: float | None = None) -> Run:
        if number not in self._trials:
            identity = {"search_id": self._search_id, "trial_number": str(number)}
            if self._parent.run_id:
                identity["mlflow.parentRunId"] = self._parent.run_id
            self._trials[number] = Run(number, name or f"trial {number:04d}", identity, _milliseconds(timestamp))
        return self._trials[number]

    def _describe(
        self, run: Run, params: Mapping[str, Any], tags: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        self._add_params(run, params)
        self._add_tags(run, tags)
        for key, value in log10_of(params, () if self._view is None else self._view.log_scaled).items():
            self._add_point(run, key, 0, value, None)
        text = yaml.safe_dump(json.loads(json.dumps(dict(config), default=_plain)), sort_keys=False)
        self._add_artifact(run, "config.yaml", masked(text).encode())

    def _add_params(self, run: Run, params: Mapping[str, Any]) -> None:
        for key, value in params.items():
            text = _text(value)
            if key not in run.params:
                run.params[key] = text
                self._add(run, Item("param", key, text))
            elif run.params[key] != text:
                logger.warning(
                    "MLflow keeps the parameter %s=%r of %r: it cannot be changed to %r",
                    *(key, run.params[key], run.name, text),
                )

    def _add_tags(self, run: Run, tags: Mapping[str, Any]) -> None:
        for key, value in tags.items():
            if run.tags.get(key) != (text := _text(value)):
                run.tags[key] = text
                self._add(run, Item("tag", key, text))

    def _add_point(self, run: Run, key: str, step: float, value: Any, timestamp: float | None) -> None:
        try:
            number, at = float(value), int(step)
        except (TypeError, ValueError, OverflowError):
            self._note(run, key, f"{value!r:.100} at step {step}")
            return
        if not math.isfinite(number):
            self._note(run, key, f"{number} at step {at}")
        elif key not in run.last or at > run.last[key][0]:
            run.last[key] = (at, number)
            self._add(run, Item("metric", key, number, _milliseconds(timestamp), at))

    def _note(self, run: Run, key: str, text: str) -> None:
        if f"non_finite/{key}" not in run.tags:
            logger.info("%s of %r is no finite number: %s", key, run.name, text)
            self._add_tags(run, {f"non_finite/{key}": text})

    def _add(self, run: Run, item: Item) -> None:
        run.unsent.items.append(item)
        self._mark(run)

    def _add_artifact(self, run: Run, path: str, data: bytes) -> None:
        run.unsent.artifacts[path] = bytes(data)
        self._mark(run)

    def _set_status(self, run: Run, status: str, timestamp: float | None) -> None:
        run.status = status
        run.unsent.status = (status, _milliseconds(timestamp))
        self._mark(run)

    def _mark(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.mark(run)


def _milliseconds(timestamp: float | None) -> int:
    return int((time.time() if timestamp is None else timestamp) * 1000)


def _text(value: Any) -> str:
    """A parameter or tag in the form MLflow accepts: without credentials, not too long."""
    text = masked(str(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _plain(value: Any) -> Any:
    """For JSON: a NumPy scalar as Python's, anything else as its text."""
    return value.item() if hasattr(value, "item") else str(value)
