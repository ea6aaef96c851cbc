"""How much of long curves and of thousands of trials MLflow is told."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from search.ledger.ledger import Report, TrialRecord
from search.tracking.tracker import CURVE_POINTS, MlflowTracker


class Queue:
    """In place of the writer: keeps what it is given."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.runs: dict[Any, Any] = {}

    def mark(self, run: Any) -> None:
        self.runs[run.number] = run


def tracker_of(steps: int) -> tuple[MlflowTracker, Queue]:
    tracker, queue = MlflowTracker("sqlite:///unused.db", "e", "s", "n", steps), Queue()
    tracker._writer = queue  # type: ignore[assignment]
    return tracker, queue


def told(steps: int, every: int) -> list[int]:
    """At which steps MLflow gets the loss of a trial that reports every so often."""
    tracker, queue = tracker_of(steps)
    for end in range(every, steps + 1, every):
        at = [float(step) for step in range(end - every + 1, end + 1)]
        tracker.trial_reported(0, end, {"score": 0.5}, {"step": at, "loss": [1 / step for step in at]})
    items = [item for item in queue.runs[0].unsent.items if item.key == "loss"]
    assert all(item.value == 1 / item.step for item in items)
    return [item.step for item in items]


def test_a_short_curve_is_told_whole() -> None:
    assert told(60, 30) == list(range(1, 61))


@pytest.mark.parametrize(("steps", "every"), [(300, 30), (5000, 500), (1000, 7)])
def test_a_long_one_in_some_hundred_points_whatever_its_length(steps: int, every: int) -> None:
    found = told(steps, every)
    assert len(found) <= CURVE_POINTS + steps // every
    assert set(range(every, steps + 1, every)) <= set(found)  # where it reports
    assert max(b - a for a, b in itertools.pairwise(found)) <= steps / CURVE_POINTS


def test_a_run_that_is_whole_is_not_looked_at_again() -> None:
    """Thousands of them would hold up a resume."""
    tracker, queue = tracker_of(10)
    reports = (Report(10, 1.0, 1.0, {"score": 0.5}, {"step": [1.0], "loss": [1.0]}),)
    records = [
        TrialRecord(i, None, {"x": 1}, {"x": 1}, [0], 0.0, "completed", 10, 0.5, reports=reports) for i in range(3)
    ]
    for number in (0, 1):
        run = tracker._trial(number)
        run.status, run.tags = "FINISHED", {"status": "completed"}
    looked: list[int] = []

    def metrics(record: TrialRecord) -> dict[str, float]:
        looked.append(record.number)
        return record.metrics

    tracker.reconcile(records, metrics=metrics)
    assert looked == [2] and list(queue.runs) == [2]
