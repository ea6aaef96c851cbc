"""What a person and MLflow see while a search runs: a Tune callback that passes on what the ledger has."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayActorError
from ray.tune import Callback

from search.analysis.failure_signatures import ended_metrics, ended_tags
from search.analysis.saturation import Saturation
from search.engine.left_out import tell_left_out
from search.interruption import Stopped, caused_by_full_disk, check_actors, check_room, stopped_by_full_disk
from search.ledger.faults import read_fault
from search.ledger.ledger import Ledger, TrialRecord
from search.space.model import Space
from search.tracking.tracker import MlflowTracker
from search.tuning.display import Display

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 5.0  # at races, and at devices
ALIKE = 3  # trials in a row that fail with the same exception, before the search ends


def trial_tags(record: TrialRecord) -> dict[str, str]:
    """Tags of a trial's MLflow run."""
    if record.name and record.name.startswith("warm_start"):
        return {"warm_start": record.name, **ended_tags(record)}
    return {**({"default": record.name} if record.name else {}), **ended_tags(record)}


class SearchCallback(Callback):
    """Runs in the driver. Never blocks on MLflow (the tracker queues)."""

    def __init__(
        self,
        space: Space,
        ledger: Ledger,
        tracker: MlflowTracker,
        display: Display,
        actors: Mapping[str, Any],
        saturation: Saturation | None = None,
    ) -> None:
        """`actors`: name -> handle, of those that all trials need. `saturation`: what to warn of, once."""
        self.space, self.ledger, self.tracker, self.display, self.actors = space, ledger, tracker, display, actors
        self.passed_on: dict[int, int] = {}  # trial -> step up to which its reports have been
        self.looked = 0.0  # when races were
        self.saturation = saturation  # None once it has been warned of
        self.faults: dict[str, int] = {}  # an exception's text -> the first trial that raised it
        self.alike: list[TrialRecord] = []  # trials in a row that failed with the same exception
        self.stopped: Stopped | None = None  # why the search ends at the next step of Tune
        self.looked_at_devices = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune's snapshots are not used; threads and terminals do not belong in one

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self.ledger.trial(trial.config["number"])
        assert record is not None
        self.tracker.trial_started(
            record.number, record.params, trial_tags(record), record.config, name=record.name, timestamp=record.created
        )
        self.display.started(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number, step = trial.config["number"], int(result["step"])
        self._pass_on(number, step)
        self.passed_on[number] = step  # lower than before where a trial has started again
        if step >= self.space.steps:
            record = self.ledger.trial(number)
            assert record is not None
            self.display.reported(record)
        self.display.show()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Time goes by; and the later stages of a race: Tune hears nothing of them until the trial ends. Only what is raised here
        ends the search: Tune logs what `on_trial_complete` raises, and goes on."""
        if self.stopped is not None:
            raise self.stopped
        self.display.wait()
        clock = time.monotonic()
        if clock - self.looked_at_devices >= SECONDS_BETWEEN_LOOKS:
            self._look_at_devices()
        if self.space.racing is None or clock - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = clock
        for trial in trials:
            if trial.status == "RUNNING":
                self._pass_on(trial.config["number"], sys.maxsize)

    def _look_at_devices(self) -> None:
        self.looked_at_devices = time.monotonic()
        if "pool" in self.actors:
            tell_left_out(self.actors["pool"], self.display.say)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._explain(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._explain(trial)
        self._ended(trial)

    def _pass_on(self, number: int, step: int) -> None:
        """Tells MLflow what it has not heard of a trial, up to `step`."""
        for report in self.ledger.reported(number, self.passed_on.get(number, 0), step):
            self.tracker.trial_reported(number, report.step, report.metrics, curve=report.curve, timestamp=report.time)
            self.passed_on[number] = report.step

    def _explain(self, trial: Any) -> None:
        """A process that died is a line; an exception is a bug, so the first of each kind is shown whole. A full disk is neither,
        nor is the death of what all trials need: they end the search, before trials are counted as failed for it."""
        error = trial.get_pickled_error()
        if caused_by_full_disk(error):
            raise stopped_by_full_disk(self.ledger.output, error)
        check_room(self.ledger.output)
        check_actors(self.actors)
        self._look_at_devices()
        record = self.ledger.trial(trial.config["number"])
        if record is None:
            return
        text = trial.get_error() if error is None else error
        if self.ledger.fault(record.number) is not None:
            self._show_fault(record)
        elif text is None or isinstance(error, RayActorError):  # Tune has nothing to say of a node that went
            self.display.say(f"trial {record.number}: its process died; it goes on from step {record.steps} in another")
        else:
            log.error("trial %d raised an exception after step %d:\n%s", record.number, record.steps, text)

    def _show_fault(self, record: TrialRecord) -> None:
        """The exception that ended an attempt: whole, if it is the first of its kind, else a line."""
        fault = read_fault(self.ledger.folder(record.number))
        if fault is None:
            return
        if fault.text not in self.faults:
            self.faults[fault.text] = record.number
            log.error("trial %d raised an exception after step %d:\n%s", record.number, record.steps, fault.trace)
        elif record.status == "unfinished":
            first = self.faults[fault.text]
            same = "" if first == record.number else f" the same exception as trial {first},"
            self.display.say(f"trial {record.number}:{same or ' an exception,'} after step {record.steps}")

    def _ended(self, trial: Any) -> None:
        record = self.ledger.trial(trial.config["number"])
        if record is None or record.status == "unfinished":
            return
        self.tracker.trial_finished(
            record.number,
            record.status,
            ended_metrics(record),
            error=record.error,
            timestamp=record.finished,
            tags=ended_tags(record),
        )
        self.display.ended(record)
        fault = read_fault(self.ledger.folder(record.number)) if record.status == "failed" else None
        if fault is not None and record.error == fault.text:
            self._show_fault(record)
            self.tracker.log_artifact(record.number, "traceback.txt", fault.trace.encode())
        self._stop_if_alike(record)
        self._warn_of_saturation()

    def _stop_if_alike(self, record: TrialRecord) -> None:
        """After so many trials in a row that failed with the same exception: the others would, too."""
        if record.status != "failed":
            self.alike = []
        elif record.error in self.faults:
            self.alike = [r for r in self.alike if r.error == record.error] + [record]
        if len(self.alike) >= ALIKE:
            first = self.faults[str(record.error)]
            self.stopped = Stopped(
                f"{len(self.alike)} trials in a row failed with the exception above (trial {first}): the search ends here. "
                f"Its traceback is in {self.ledger.folder(record.number) / 'fault.json'}; once its cause is gone, the same "
                "command with --resume goes on"
            )

    def _warn_of_saturation(self) -> None:
        """Once, from a third of the trials on: there is time to begin anew."""
        ended = self.display.ended_records
        if self.saturation is None or 3 * len(ended) < self.space.trials:
            return
        line = self.saturation.line(list(ended.values()))
        if line is not None:
            self.saturation = None
            self.display.say(f"warning: {line}")
