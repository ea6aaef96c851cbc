"""What single seeds would have chosen, and how that is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from search.analysis.ranking import best_by_single_seed
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
        f"best_single_seed/{n}": {"shares": x, "hyperparameters": {"of": n}} for n, x in shares.items()
    }
    for label, number in (("recommended", 4), ("best", 4), ("default", 1), ("paper_default", 1), ("mmd", 0)):
        runs[label] = {"shares": shares[number], "hyperparameters": {"of": number}}
    choice: Any = SimpleNamespace(chosen=SimpleNamespace(trial=4))
    found = confirmed_settings(space, PLAN, RECORDS, choice, runs)
    row = found.best_single_seed
    assert row is not None and row.trials == [0, 1, 4]
    assert row.values == pytest.approx([0.6, 0.7])  # of shares 0.5, 0.6 on one task and 0.7, 0.8 on the other
    assert [task.mean for task in row.tasks] == pytest.approx([0.55, 0.75])
    assert found.differences["best_single_seed"].mean == pytest.approx(0.1)  # to 0.8, 0.7
    assert "best" not in found.differences  # the same setting
