"""MLflow logging against a real store: a database."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from condense.system.errors import UserError
from search.ledger.ledger import Report, TrialRecord
from search.tracking import tracker as tracker_module
from search.tracking.answers import masked
from search.tracking.store import check_tracking, connect, database_path
from search.tracking.tracker import MlflowTracker

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with its tables: making them takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"
    check_tracking(uri)
    return uri


@pytest.fixture
def make(store: str) -> Iterator[Callable[[], MlflowTracker]]:
    """Trackers of one search in an experiment of its own; each one is a new driver, as after a kill."""
    search_id, made = uuid.uuid4().hex, []

    def tracker() -> MlflowTracker:
        made.append(MlflowTracker(store, f"experiment {search_id}", search_id, "a search"))
        made[-1].start({"sampler": "tpe"}, {"space": "quickstart"})
        return made[-1]

    yield tracker
    for one in made:
        if one._writer is not None:
            one._writer.stop(5)


class Seen:
    """What MLflow has of a tracker's search; fails if a run is there twice."""

    def __init__(self, tracker: MlflowTracker) -> None:
        self.client = connect(tracker.uri)
        runs = self.client.search_runs([str(tracker.experiment_id)])
        children = [run for run in runs if "trial_number" in run.data.tags]
        (self.parent,) = [run for run in runs if "trial_number" not in run.data.tags]
        self.trials = {int(run.data.tags["trial_number"]): run for run in children}
        assert len(self.trials) == len(children)
        assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {self.parent.info.run_id}

    def points(self, number: int, key: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.trials[number].info.run_id, key)
        return sorted((point.step, point.value) for point in history)

    def artifact(self, number: int | None, path: str, folder: Path) -> bytes:
        run = self.parent if number is None else self.trials[number]
        return Path(self.client.download_artifacts(run.info.run_id, path, str(folder))).read_bytes()


def record(number: int, steps: int, status: Any = "unfinished", **more: Any) -> TrialRecord:
    """A trial of the ledger with a report every 10 steps."""
    reports = tuple(Report(s, 1000.0 + s, s / 10, *report_at(s)) for s in range(10, steps + 1, 10))
    return TrialRecord(
        number,
        None,
        {"lr": 0.1},
        {"lr": 0.1},
        [0, 1],
        created=1000.0,
        status=status,
        steps=steps,
        reports=reports,
        **more,
    )


def report_at(step: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(metrics, curve) of one report; the curve is finer."""
    steps = list(range(step - 9, step + 1))
    return {"score": step / 100, "step": step}, {"step": [*steps], "loss": [1 / s for s in steps]}


def log(tracker: MlflowTracker, trial: TrialRecord, steps: int = 10**9) -> None:
    """Logs a trial of the ledger as a driver does while it runs."""
    tracker.trial_started(trial.number, trial.params, {}, trial.config, trial.name, trial.created)
    for report in trial.reports:
        if report.step <= steps:
            tracker.trial_reported(trial.number, report.step, report.metrics, report.curve, report.time)


def test_a_search_is_one_parent_with_one_child_per_trial(make: Callable[[], MlflowTracker], tmp_path: Path) -> None:
    tracker = make()
    tracker.trial_started(0, {"lr": 0.5}, {"sampler": "none"}, {"lr": 0.5, "momentum": 0.5}, "paper_default", 1000.0)
    curve: dict[str, list[float]] = {
        "step": [1, 2, 3, 4],
        "loss": [4.0, 3.0, 2.0, 1.0],
        "loss/uni": [0.4, 0.3, 0.2, 0.1],
    }
    tracker.trial_reported(0, 4, {"score": 0.8, "loss": 1.5, "accuracy/seed_0": 0.9, "step": 4}, curve, 1001.5)
    tracker.trial_finished(0, "completed", {"score": 0.7, "steps": 4}, None, {"previews/a.txt": b"a"}, 1002.0)
    for number, status in enumerate(("pruned", "failed"), start=1):
        tracker.trial_started(number, {"lr": number}, {}, {})
        tracker.trial_finished(number, status, {}, "loss/uni is nan at step 3" if status == "failed" else None)
    tracker.log_artifact(None, "report.html", b"<html>")
    for best in (0.5, 0.5, 0.8):
        tracker.log_parent({"best_score": best}, {"trials": 3}, {"note": "x"})
    assert tracker.finish("completed", timeout=20)

    seen = Seen(tracker)
    assert seen.parent.info.run_id == tracker.run_id
    assert seen.parent.info.status == "FINISHED"
    assert seen.parent.data.params == {"sampler": "tpe", "trials": "3"}
    assert [point.value for point in seen.client.get_metric_history(seen.parent.info.run_id, "best_score")] == [
        0.5,
        0.8,
    ]
    assert seen.artifact(None, "report.html", tmp_path) == b"<html>"
    states = {number: (run.info.status, run.data.tags["status"]) for number, run in seen.trials.items()}
    assert states == {0: ("FINISHED", "completed"), 1: ("KILLED", "pruned"), 2: ("FAILED", "failed")}
    assert seen.trials[2].data.tags["error"] == "loss/uni is nan at step 3"
    first = seen.trials[0]
    assert (first.info.run_name, seen.trials[1].info.run_name) == ("paper_default", "trial 0001")
    assert (first.info.start_time, first.info.end_time) == (1_000_000, 1_002_000)
    assert first.data.params == {"lr": "0.5"}
    assert seen.points(0, "loss") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]  # the curve's value at step 4
    assert seen.points(0, "score") == [(4, 0.8)]  # not once more at the end
    assert set(first.data.metrics) == {"loss", "loss/uni", "score", "accuracy/seed_0", "steps"}
    assert yaml.safe_load(seen.artifact(0, "config.yaml", tmp_path)) == {"lr": 0.5, "momentum": 0.5}
    assert seen.artifact(0, "previews/a.txt", tmp_path) == b"a"
    database = database_path(tracker.uri)
    assert database is not None
    assert first.info.artifact_uri.startswith((database.parent / "mlartifacts").as_uri())


def test_resuming_twice_makes_no_run_and_no_point_twice(make: Callable[[], MlflowTracker]) -> None:
    finished, pruned = record(0, 50, "completed", finished=2000.0), record(3, 20, "pruned", finished=2000.0)
    interrupted, unseen = record(1, 30), record(2, 40, "failed", error="NaN", finished=2000.0)
    killed = make()
    log(killed, finished, steps=20)  # the ledger has more than MLflow
    log(killed, interrupted)
    log(killed, pruned)
    killed.trial_finished(3, "pruned", {}, timestamp=2000.0)
    assert killed.flush(20)

    second = make()
    assert second.run_id == killed.run_id
    second.reconcile([finished, interrupted, unseen, pruned])
    second.trial_started(1, interrupted.params, {}, interrupted.config)
    for report in interrupted.reports:  # a continued trial reports again what it had
        second.trial_reported(1, report.step, report.metrics, report.curve)
    assert second.finish("interrupted", timeout=20)
    assert Seen(second).trials[1].info.status == "KILLED"
    assert Seen(second).trials[1].data.tags["status"] == "interrupted"

    third = make()
    assert Seen(third).parent.info.status == "RUNNING"
    continued = record(1, 60, "completed", finished=2000.0)
    third.reconcile([finished, interrupted, unseen, pruned])
    log(third, continued)
    third.trial_finished(1, "completed", {}, timestamp=2000.0)
    assert third.finish("completed", timeout=20)

    for again in range(2):
        seen = Seen(third)
        states = {number: run.info.status for number, run in seen.trials.items()}
        assert states == {0: "FINISHED", 1: "FINISHED", 2: "FAILED", 3: "KILLED"}
        for trial in (finished, continued, unseen, pruned):
            assert seen.points(trial.number, "score") == [(r.step, r.metrics["score"]) for r in trial.reports]
            assert seen.points(trial.number, "loss") == [(s, 1 / s) for s in range(1, trial.steps + 1)]
        if not again:  # a complete search, opened once more, sends nothing of its trials
            fourth = make()
            fourth.reconcile([finished, continued, unseen, pruned])
            assert fourth._writer is not None
            assert not any(run.unsent.items or run.unsent.artifacts for run in fourth._trials.values())
            assert fourth.finish("completed", timeout=20)


def test_a_refused_item_is_named_and_dropped_alone(
    make: Callable[[], MlflowTracker], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make()
    tracker.trial_started(0, {"lr": 0.1, "bad*param": 1}, {}, {})
    steps = list(range(1500))
    tracker.trial_reported(0, 1500, {}, {"step": steps, "loss": steps, "bad*metric": steps, "other": steps})
    tracker.trial_started(0, {"lr": 0.2}, {}, {})
    tracker.trial_reported(0, 1501, {"score": "high", "late": 1.0})  # type: ignore[dict-item]
    tracker.log_artifact(0, "..", b"x")
    tracker.trial_finished(0, "completed", {})
    tracker.trial_started(1, {"lr": 0.3}, {}, {})
    begin = time.monotonic()
    assert tracker.finish("completed", timeout=30)
    assert time.monotonic() - begin < 20

    seen = Seen(tracker)
    assert [step for step, _ in seen.points(0, "loss")] == steps
    assert [step for step, _ in seen.points(0, "other")] == steps
    assert seen.trials[0].data.params == {"lr": "0.1"}
    assert seen.trials[0].data.metrics.keys() == {"loss", "other", "late"}
    assert seen.trials[0].info.status == "FINISHED"
    assert seen.trials[0].data.tags["non_finite/score"] == "'high' at step 1501"
    assert seen.trials[1].data.params == {"lr": "0.3"}
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    for name in ("'bad*param'", "'bad*metric'", "lr='0.1'", "'..'"):
        assert len([line for line in warnings if name in line]) == 1, name
    assert all("\n" not in line for line in warnings)


def test_a_run_deleted_in_mlflow_ends_its_own_logging_only(
    make: Callable[[], MlflowTracker], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make()
    log(tracker, record(0, 10))
    assert tracker.flush(20)
    client = connect(tracker.uri)
    client.delete_run(Seen(tracker).trials[0].info.run_id)
    log(tracker, record(0, 50))
    log(tracker, record(1, 50))
    assert tracker.finish("completed", timeout=20)
    assert list(Seen(tracker).trials) == [1]
    assert len(Seen(tracker).points(1, "loss")) == 50
    assert len([line for line in caplog.messages if "no longer has the run 'trial 0000'" in line]) == 1


def test_values_that_are_not_finite_become_a_note(make: Callable[[], MlflowTracker]) -> None:
    tracker = make()
    for step, value in ((1, 1.0), (2, math.nan), (3, math.nan), (4, 2.0)):
        tracker.trial_reported(0, step, {"loss": value, "score": -math.inf if step == 3 else 0.5})
    assert tracker.finish("completed", timeout=20)
    seen = Seen(tracker)
    assert seen.points(0, "loss") == [(1, 1.0), (4, 2.0)]
    assert seen.points(0, "score") == [(1, 0.5), (2, 0.5), (4, 0.5)]
    assert seen.trials[0].data.tags["non_finite/loss"] == "nan at step 2"
    assert seen.trials[0].data.tags["non_finite/score"] == "-inf at step 3"


def test_a_creation_whose_answer_is_lost_makes_one_run(make: Callable[[], MlflowTracker]) -> None:
    tracker = make()
    assert tracker._writer is not None
    client = tracker._writer._client
    real = client.create_run
    calls: list[Callable[[], Any]] = []

    def lossy(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        calls.append(partial(real, *args, **kwargs))
        raise requests.ConnectionError("the connection broke after the request")

    client.create_run = lossy  # type: ignore[method-assign]
    log(tracker, record(0, 10))
    assert tracker.flush(20)
    assert len(calls) == 1
    calls[0]()  # as a request that timed out and is carried out late
    assert tracker.finish("completed", timeout=20)
    assert len(Seen(tracker).points(0, "loss")) == 10


def doubled(make: Callable[[], MlflowTracker]) -> MlflowTracker:
    """A tracker whose first trial has a second run in MLflow, as a request that was repeated leaves it."""
    tracker = make()
    log(tracker, record(0, 20))
    assert tracker.flush(20)
    connect(tracker.uri).create_run(str(tracker.experiment_id), tags=dict(Seen(tracker).trials[0].data.tags))
    return tracker


def test_double_runs_are_reduced_to_the_fullest(make: Callable[[], MlflowTracker]) -> None:
    tracker = doubled(make)
    assert make().finish("completed", timeout=20)
    assert len(Seen(tracker).points(0, "loss")) == 20


def test_a_store_that_stays_away_is_reported_not_waited_for(
    make: Callable[[], MlflowTracker], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make()
    assert tracker.flush(20)
    database, writer = database_path(tracker.uri), tracker._writer
    assert database is not None
    assert writer is not None
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        begin = time.monotonic()
        log(tracker, record(0, 30))
        assert time.monotonic() - begin < 1
        assert not tracker.finish("completed", timeout=0.5)
        assert time.monotonic() - begin < 5
        other.execute("ROLLBACK")
    writer._thread.join(30)  # its request in flight may be carried out after all, and is no second run then
    (line,) = [line for line in caplog.messages if "--resume" in line]
    assert "1 runs, 33 metric points" in line
    assert "\n" not in line

    resumed = make()
    resumed.reconcile([record(0, 30, "completed", finished=2000.0)])
    assert resumed.finish("completed", timeout=30)
    assert len(Seen(resumed).points(0, "loss")) == 30


def test_credentials_are_never_shown_or_logged(make: Callable[[], MlflowTracker], tmp_path: Path) -> None:
    secret = "postgresql://me:se%40cret@host:5432/db"
    assert masked(f"x {secret} y http://h/p") == "x postgresql://***@host:5432/db y http://h/p"
    assert masked("postgresql://u:pa/ss@h/db") == "postgresql://***@h/db"
    assert masked("mssql://h/db?user=a&password=b&x=c") == "mssql://h/db?user=a&password=***&x=c"
    assert "se%40cret" not in MlflowTracker(secret, "e", "s", "n").where
    tracker = make()
    tracker.trial_started(0, {"uri": secret}, {"uri": secret}, {"uri": secret})
    tracker.trial_finished(0, "failed", {}, f"cannot reach {secret}")
    assert tracker.finish("completed", timeout=20)
    seen = Seen(tracker)
    assert "cret" not in str(seen.trials[0].to_dictionary())
    assert b"cret" not in seen.artifact(0, "config.yaml", tmp_path)


def test_a_metric_that_failed_for_a_while_is_not_given_up(make: Callable[[], MlflowTracker]) -> None:
    tracker = make()
    assert tracker._writer is not None
    client = tracker._writer._client
    real, failing = client.log_batch, [True]

    def shaky(*args: Any, **more: Any) -> Any:
        if failing[0] and more["metrics"]:
            raise requests.exceptions.RetryError("too many 500 error responses")
        return real(*args, **more)

    client.log_batch = shaky  # type: ignore[method-assign]
    tracker.trial_reported(0, 1, {"score": 0.5})
    assert tracker.flush(20)  # taken for refused
    failing[0] = False
    tracker.trial_reported(0, 2, {"score": 0.6})
    assert tracker.finish("completed", timeout=20)
    assert Seen(tracker).points(0, "score") == [(2, 0.6)]


def test_a_double_that_may_not_be_deleted_is_told_once(
    make: Callable[[], MlflowTracker], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = doubled(make)
    assert tracker._writer is not None

    def refuse(run_id: str) -> None:
        raise ValueError("not allowed")

    tracker._writer._client.delete_run = refuse  # type: ignore[method-assign]
    assert tracker.finish("completed", timeout=10)
    assert len([line for line in caplog.messages if "did not delete the duplicate run" in line]) == 1


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_broken_connection_at_the_start_is_tried_again(
    make: Callable[[], MlflowTracker], monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """As a server leaves it that closes idle ones; after the parent run was made, which is found then."""
    made = make()
    again = MlflowTracker(made.uri, made.experiment, made._search_id, "a search")
    monkeypatch.setattr(tracker_module, "PAUSE", 0.0)
    find, left = again._find_or_make_parent, list(range(broken))

    def find_or_break(*arguments: Any) -> None:
        find(*arguments)
        if left:
            left.pop()
            raise requests.ConnectionError("Connection reset by peer")

    monkeypatch.setattr(again, "_find_or_make_parent", find_or_break)
    if broken == tracker_module.ATTEMPTS:
        with pytest.raises(UserError, match="Connection reset by peer"):
            again.start({}, {})
        return
    again.start({}, {})
    assert again.run_id == made.run_id
    assert again.finish("completed", timeout=30)
