"""`validation`: its keys, the folds that it makes of tasks, and how metrics name them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from condense.config.models import TaskConfig
from search.analysis.metrics import replica_values, summarize
from search.analysis.transfer import transfer
from search.ledger.ledger import Report, TrialRecord
from search.space.model import Robust, Space
from search.space.plan import Plan, cost_of_folds, with_tasks
from search.space.recorded import completed
from search.space.validation import Validation, fold_tasks, folds_of, told

RANGE: dict[str, Any] = {"lambda_cross": {"low": 0.01, "high": 100, "log": True}}
TASKS = [TaskConfig(dpc=dpc).model_dump(mode="json") for dpc in (1, 5)]


def space(**changes: Any) -> Space:
    return Space.model_validate({"name": "s", "tasks": TASKS, "search": RANGE, **changes})


def plan(tasks: int, folds: int) -> Plan:
    return Plan(
        fold_tasks(TASKS[:tasks], Validation(folds=folds), [None] * tasks),
        [0, 1],
        [6],
        Robust(rule="mean"),
        None,
        folds=folds,
    )


def test_tasks_become_their_folds_side_by_side() -> None:
    made = fold_tasks(TASKS, Validation(folds=3), [6, 5])
    assert [(task["dpc"], task["fold"]["index"], task["fold"]["by"]) for task in made] == [
        *[(1, index, "group") for index in range(3)],  # two groups for each
        *[(5, index, "class") for index in range(3)],  # too few of them
    ]
    assert all({**task, "fold": None} in TASKS and TaskConfig.model_validate(task) for task in made)
    assert {task["fold"]["by"] for task in fold_tasks(TASKS, Validation(by="class"), [60, None])} == {"class"}
    assert {task["fold"]["by"] for task in fold_tasks(TASKS, Validation(by="group"), [3, None])} == {"group"}
    assert len(with_tasks(space(), made).tasks) == 6


@pytest.mark.parametrize("validation", [None, Validation(folds=1)])
def test_a_single_split_leaves_tasks_as_they_are(validation: Validation | None) -> None:
    assert fold_tasks(TASKS, validation, [None, 60]) == TASKS
    assert folds_of(validation) == 1


def test_a_search_of_an_earlier_version_keeps_its_single_split() -> None:
    recorded = space().model_dump(mode="json")
    del recorded["validation"]
    for task in recorded["tasks"]:
        del task["fold"]
    known = completed(recorded)
    assert known == space().model_dump(mode="json")  # so a resumed one is the same search
    assert folds_of(Space.model_validate(known).validation) == 1
    assert known != space(validation={"folds": 3}).model_dump(mode="json")


def test_a_fold_has_no_folds() -> None:
    with pytest.raises(ValidationError, match="`validation` makes folds of all tasks"):
        space(tasks=[{"fold": {"index": 0, "of": 2}}], validation={})
    for wrong in ({"folds": 0}, {"folds": 21}, {"by": "speaker"}, {"fold": 2}):
        with pytest.raises(ValidationError):
            space(validation=wrong)


def test_results_are_of_the_users_tasks() -> None:
    for tasks in (1, 2):
        assert plan(tasks, 3).whole_tasks == TASKS[:tasks] == plan(tasks, 1).whole_tasks


@pytest.mark.parametrize(
    ("tasks", "folds", "places"),
    [
        (1, 1, [""]),
        (2, 1, ["task_0", "task_1"]),
        (1, 2, ["fold_0", "fold_1"]),
        (2, 2, ["task_0/fold_0", "task_0/fold_1", "task_1/fold_0", "task_1/fold_1"]),
    ],
)
def test_metrics_name_task_and_fold(tasks: int, folds: int, places: list[str]) -> None:
    own = plan(tasks, folds)
    assert own.places == places
    values = [0.1 * i for i in range(2 * tasks * folds)]
    curve = {name: [1.0] for name in ("loss", "loss/uni", "loss/cross", "loss/joint")}
    metrics = summarize({"step": 6, "shares": values, "accuracies": values, "curve": curve}, own, 1.0)
    assert replica_values(metrics, own) == values
    assert metrics["score"] == pytest.approx(sum(values) / len(values))
    assert metrics["replica_steps"] == 6 * len(values)
    for i, place in enumerate(places):
        assert metrics[f"accuracy/{place}{'/' if place else ''}seed_1"] == values[2 * i + 1]
        assert not place or metrics[f"share/{place}"] == pytest.approx((values[2 * i] + values[2 * i + 1]) / 2)


def record(number: int, own: Plan, values: list[float]) -> TrialRecord:
    curve = {name: [1.0] for name in ("loss", "loss/uni", "loss/cross", "loss/joint")}
    metrics = summarize({"step": 6, "shares": values, "accuracies": values, "curve": curve}, own, 1.0)
    known: dict[str, Any] = {"name": None, "params": {}, "config": {"i": number}, "seeds": [0, 1], "created": 0.0}
    reports = (Report(6, 1.0, 1.0, metrics),)
    return TrialRecord(number, **known, status="completed", steps=6, score=metrics["score"], reports=reports)


def test_folds_are_no_tasks_to_transfer_between() -> None:
    single, both = plan(1, 2), plan(2, 2)
    assert transfer([record(0, single, [0.1, 0.2, 0.3, 0.4])], single, ["a"], lambda _: {}) is None
    # Trial 0 is best on task 0 by the mean of its folds, though trial 1 is on its second fold; trial 1 is on task 1.
    of_each = {0: [0.9, 0.9, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1], 1: [0.2, 0.2, 0.6, 0.6, 0.3, 0.3, 0.5, 0.5]}
    records = [record(number, both, values) for number, values in of_each.items()]
    known = transfer(records, both, ["a", "b"], lambda s: {label: of_each[own["i"]] for label, own in s.items()})
    assert known is not None and [row["trial"] for row in known["settings"]] == [0, 1]
    assert known["share"] == [[pytest.approx(0.7), pytest.approx(0.1)], [pytest.approx(0.4), pytest.approx(0.4)]]


def test_what_folds_cost_is_said() -> None:
    assert cost_of_folds(space(trials=10, seeds=2, steps=60), 3).startswith("3 folds: up to 7,200 replica-steps")
    folds = fold_tasks(TASKS, Validation(folds=2), [4, None])
    described = [{"items": {"validation": count}} for count in (1200, 1100, 30, 31)]
    assert (
        told(folds, described) == "validation: 2 folds by group of 1,200, 1,100 items; 2 folds by class of 30, 31 items"
    )
