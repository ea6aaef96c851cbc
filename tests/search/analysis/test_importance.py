"""What single seeds would have chosen, and how that is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from search.analysis.importance import importances
from search.analysis.paired import Items
from search.analysis.ranking import best_by_single_seed
from search.analysis.surrogate import sobol_points
from search.confirmation.held_out import HeldOut
from search.ledger.ledger import Report, TrialRecord
from search.report.confirmed import confirmed_settings
from search.space.model import Robust, Space
from search.space.plan import Plan

PLAN = Plan([{"dpc": 1}, {"dpc": 2}], [0, 1, 2], [6], Robust(), None)


def record(number: int, *by_task: tuple[float, ...], status: Any = "completed", name: str | None = None) -> TrialRecord:
    """A trial with shares by task and seed."""
    metrics = {f"share/task_{t}/seed_{i}": x for t, values in enumerate(by_task) for i, x in enumerate(values)}
    metrics |= {"seeds": float(len(by_task[0])), "score_mean": 0.9}
    reports = (Report(6, 0.0, 0.0, metrics),)
    return TrialRecord(number, name, {}, {"of": number}, [0], 0.0, status, 6, 0.5, reports=reports)


RECORDS = [
    record(0, (0.9, 0.1, 0.4), (0.9, 0.1, 0.4)),
    record(1, (0.0, 0.8, 0.5), (0.8, 0.8, 0.5)),  # by the mean over tasks, not by one of them
    record(2, (0.99, 0.99, 0.99), (0.99, 0.99, 0.99), status="failed"),
    record(3, (0.99, 0.99, 0.99), (0.99, 0.99, 0.99), name="paper_default"),
    record(4, (0.8, 0.2, 0.6), (0.5, 0.2, 0.6)),
]


def test_each_seed_chooses_by_itself() -> None:
    assert [r.number for r in best_by_single_seed(RECORDS, PLAN)] == [0, 1, 4]
    assert best_by_single_seed(RECORDS[2:4], PLAN) == []


def test_only_seeds_that_all_have_can_choose() -> None:
    """Of a race: who has more seeds than others was chosen for them."""
    behind = record(5, (0.95,), (0.95,))
    assert [r.number for r in best_by_single_seed([*RECORDS, behind], PLAN)] == [5]


def test_the_row_is_the_mean_over_what_the_seeds_chose() -> None:
    space = Space.model_validate(
        {"name": "x", "tasks": [{}, {}], "search": {"lambda_cross": {"low": 0.1, "high": 1, "log": True}}}
    )
    shares = {0: [0.2, 0.4, 0.6, 0.8], 1: [0.4, 0.6, 0.8, 1.0], 4: [0.9, 0.8, 0.7, 0.6]}  # two tasks x two fresh seeds
    runs: dict[str, dict[str, Any]] = {
        f"best_single_seed/{n}": {"shares": x, "seeds": [0, 1], "hits": [None] * 4, "hyperparameters": {"of": n}}
        for n, x in shares.items()
    }
    for label, number in (("recommended", 4), ("best", 4), ("default", 1), ("paper_default", 1), ("mmd", 0)):
        runs[label] = {"shares": shares[number], "seeds": [0, 1], "hits": [None] * 4, "hyperparameters": {"of": number}}
    choice: Any = SimpleNamespace(
        chosen=SimpleNamespace(trial=4), challenger=SimpleNamespace(trial=4), keeps_published=False, compared=9
    )
    held_out = HeldOut([Items(10), Items(20)], space.robust)
    found = confirmed_settings(space, PLAN, RECORDS, choice, runs, held_out, 1000)
    row = found.best_single_seed
    assert row is not None and row.trials == [0, 1, 4]
    assert row.values == pytest.approx([0.6, 0.7])  # of shares 0.5, 0.6 on one task and 0.7, 0.8 on the other
    assert [task.mean for task in row.tasks] == pytest.approx([0.55, 0.75])
    assert found.differences["best_single_seed"].mean == pytest.approx(0.1)  # to 0.8, 0.7
    assert "best" not in found.differences  # the same setting


def study(target: Callable[[float, float], list[float]], directions: Sequence[str], count: int = 60) -> optuna.Study:
    """Completed trials over x and y in 0 .. 1, evenly spread."""
    made = optuna.create_study(directions=directions)
    ranges: dict[str, Any] = {"x": optuna.distributions.FloatDistribution(0, 1)}
    ranges["y"] = ranges["x"]
    for x, y in sobol_points(2, count, 0).tolist():
        made.add_trial(optuna.trial.create_trial(params={"x": x, "y": y}, distributions=ranges, values=target(x, y)))
    return made


def test_what_the_score_follows_is_important() -> None:
    found = importances(study(lambda x, y: [x + 0.1 * y], ["maximize"]))
    assert list(found) == ["ped_anova", "fanova"]
    for values in found.values():
        assert values.keys() == {"x", "y"}
        assert values["x"] > 0.8 and sum(values.values()) == pytest.approx(1)


def test_of_several_objectives_the_first_counts_and_high_is_good() -> None:
    """Where x is high the score is good, whatever y; elsewhere y makes it bad or worse. The second one follows y alone."""
    found = importances(study(lambda x, y: [1.0 if x > 0.8 else -y, 100 * y], ["maximize", "maximize"], count=200))
    assert found["ped_anova"]["x"] > 0.8
    assert found["fanova"]["x"] > found["fanova"]["y"]


def test_without_a_completed_trial_nothing_is_important() -> None:
    assert importances(optuna.create_study()) == {"ped_anova": {}, "fanova": {}}
