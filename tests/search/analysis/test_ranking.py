"""Which trials are the best, and what is read off their last reports: cost, ranking, transfer between tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from search.analysis.cost import race, replica_steps
from search.analysis.ranking import best_trial, best_trials, contenders, score_of
from search.analysis.transfer import task_names, transfer
from search.ledger.ledger import Report, TrialRecord
from search.space.model import Robust, Space
from search.space.plan import Plan


def record(number: int, score: float, steps: int = 60, seeds: int = 3, **changes: Any) -> TrialRecord:
    """One that has reported `score` at step `steps`."""
    metrics = {"score": score, "seeds": float(seeds)} | changes.pop("metrics", {})
    known: dict[str, Any] = {"name": None, "params": {}, "config": {"of": number}, "seeds": [0, 1, 2], "created": 0.0}
    known |= {"status": "completed", "steps": steps, "reports": (Report(steps, 0.0, 0.0, metrics),)} | changes
    return TrialRecord(number=number, **known)


UNFIT = [
    record(90, 0.99, name="paper_default"),
    record(91, 0.99, status="failed"),
    record(92, 0.99, status="unfinished"),
    record(93, 0.99, reports=()),
]


def numbers(records: list[TrialRecord]) -> list[int]:
    return [r.number for r in records]


def test_the_best_are_completed_ones_with_most_seeds_then_those_that_were_stopped_latest() -> None:
    cast = [
        record(0, 0.5),
        record(1, 0.7),
        record(2, 0.9, seeds=1),
        record(3, 0.95, steps=20, status="pruned"),
        record(4, 0.6, steps=40, status="pruned"),
        record(5, 0.8, steps=40, status="pruned"),
    ]
    assert numbers(best_trials([*UNFIT, *cast], 99)) == [1, 0, 2, 5, 4, 3]
    assert numbers(best_trials([*UNFIT, *cast], 2)) == [1, 0]
    assert best_trials(UNFIT, 2) == []


def test_contenders_have_completed_with_the_most_seeds() -> None:
    cast = [record(0, 0.5), record(1, 0.7), record(2, 0.9, seeds=1), record(3, 0.95, status="pruned")]
    assert numbers(contenders([*UNFIT, *cast])) == [0, 1]
    assert contenders(UNFIT) == []
    best = best_trial([*UNFIT, *cast])
    assert best is not None and best.number == 1
    assert best_trial(UNFIT) is None


def test_a_score_is_the_ledgers_before_the_last_reports() -> None:
    assert score_of(record(0, 0.5)) == 0.5
    known = dataclasses.replace(record(0, 0.5), score=0.25)
    assert score_of(known) == 0.25


# Cost -------------------------------------------------------------------------------------------------------------------


def make_space(**changes: Any) -> Space:
    search = {"lambda_cross": {"low": 0.01, "high": 100, "log": True}}
    known = {"name": "x", "tasks": [{"dpc": 1}, {"dpc": 2}], "search": search, "steps": 60, "seeds": 3}
    return Space.model_validate({**known, **changes})


def test_replica_steps_are_those_reported_or_all_seeds_of_all_tasks() -> None:
    cast = [
        record(0, 0.5, metrics={"replica_steps": 100.0}),
        record(1, 0.5, steps=20),  # an older search, without them: 20 steps, 2 tasks, 3 seeds
        record(2, 0.5, reports=()),
    ]
    assert replica_steps(make_space(), cast) == 100 + 20 * 2 * 3


def test_what_racing_saved() -> None:
    cast = [
        record(0, 0.5, seeds=3, steps=120, metrics={"replica_steps": 360.0}),  # of both stages
        record(1, 0.5, seeds=1, steps=60, metrics={"replica_steps": 120.0}),
        record(2, 0.5, seeds=1, steps=30, metrics={"replica_steps": 60.0}, status="pruned"),
        record(3, 0.5, reports=()),
    ]
    assert race(make_space(), cast) is None
    found = race(make_space(racing={"start": 1}), cast)
    assert found == {"seeds": {"1": 2, "3": 1}, "replica_steps": 540, "full": (60 + 30 + 60) * 2 * 3}
    assert found is not None and list(found["seeds"]) == ["1", "3"]


# From task to task ------------------------------------------------------------------------------------------------------

PLAN = Plan([{"dpc": 1}, {"dpc": 2}], [0, 1], [60], Robust(), None)


def of_tasks(number: int, first: list[float], second: list[float], **changes: Any) -> TrialRecord:
    shares = {f"share/task_{t}/seed_{i}": x for t, own in enumerate((first, second)) for i, x in enumerate(own)}
    return record(number, 0.5, seeds=2, metrics=shares, **changes)


def test_the_best_of_each_task_is_tried_on_all() -> None:
    cast = [
        of_tasks(0, [0.9, 0.9], [0.1, 0.1]),
        of_tasks(1, [0.5, 0.5], [0.6, 0.6]),
        of_tasks(2, [0.1, 1.0], [0.8, 0.2]),  # one lucky seed on each
        of_tasks(3, [1.0, 1.0], [1.0, 1.0], status="failed"),
    ]
    asked: dict[str, dict[str, Any]] = {}

    def evaluate(settings: Mapping[str, dict[str, Any]]) -> dict[str, list[float]]:
        asked.update(settings)
        return {"trial 0": [0.8, 0.6, 0.2, 0.4], "trial 1": [0.5, 0.5, 0.9, 0.7]}

    assert transfer(cast, PLAN, ["one", "two"], evaluate) == {
        "tasks": ["one", "two"],
        "settings": [{"task": "one", "trial": 0}, {"task": "two", "trial": 1}],
        "share": [[pytest.approx(0.7), pytest.approx(0.3)], [pytest.approx(0.5), pytest.approx(0.8)]],
    }
    assert asked == {"trial 0": {"of": 0}, "trial 1": {"of": 1}}


def test_nothing_is_tried_for_a_single_task_or_without_a_trial() -> None:
    single = Plan([{"dpc": 1}], [0], [60], Robust(), None)
    assert transfer([record(0, 0.5)], single, ["one"], lambda _: pytest.fail("tried")) is None
    assert transfer([], PLAN, ["one", "two"], lambda _: pytest.fail("tried")) is None


def test_names_of_tasks_differ() -> None:
    def task(dataset: str = "digits", dpc: int = 1, encoder: str = "tiny") -> dict[str, Any]:
        return {"dataset": dataset, "dpc": dpc, "encoder": encoder}

    assert task_names([task(), task(dpc=5)]) == ["digits, 1 per class", "digits, 5 per class"]
    assert task_names([task(), task(encoder="imagebind")]) == [
        "digits, 1 per class, tiny",
        "digits, 1 per class, imagebind",
    ]
    assert task_names([task(), task()]) == ["digits, 1 per class, tiny (0)", "digits, 1 per class, tiny (1)"]
