"""A report as a trial's metrics: every name and number by hand, for one task and for two, alone and after a stage of racing."""

from __future__ import annotations

from statistics import stdev
from typing import Any

import pytest

from search.analysis.metrics import replica_values, summarize
from search.space.model import Robust
from search.space.plan import Plan

ONE = Plan([{"dpc": 1}], [5, 6], [4, 8], Robust(k=2.0), None)
TWO = Plan([{"dpc": 1}, {"dpc": 2, "metric": "retrieval"}], [5, 6], [4, 8], Robust(k=0.0), None)
CURVE = {
    "loss": [4.0, 3.0, 2.0],
    "loss/uni": [2.0, 1.5, 1.0],
    "loss/cross": [1.0, 0.5, 0.25],
    "loss/joint": [1, 0.5, 0.0625],
}
LOSSES = {"loss": 2.0, "loss/uni": 1.0, "loss/cross": 0.25, "loss/joint": 0.0625}


def report(shares: list[float], step: int = 4, **more: Any) -> dict[str, Any]:
    """`accuracies` are half of the shares."""
    return {"step": step, "shares": shares, "accuracies": [x / 2 for x in shares], "curve": CURVE, **more}


def test_one_task() -> None:
    found = summarize(report([0.6, 0.8]), ONE, 7.5)
    std = stdev([0.6, 0.8])
    assert found == {
        "score": pytest.approx(0.7 - 2 * std),
        "score_mean": pytest.approx(0.7),
        "score_std": pytest.approx(std),
        "seeds": 2.0,
        "step": 4.0,
        "seconds": 7.5,
        "replica_steps": 8.0,
        **LOSSES,
        "accuracy": pytest.approx(0.35),
        "accuracy/seed_0": 0.3,
        "accuracy/seed_1": 0.4,
        "share/seed_0": 0.6,
        "share/seed_1": 0.8,
    }
    assert replica_values(found, ONE) == [0.6, 0.8]
    assert replica_values(found, ONE, "judged") == [0.3, 0.4]


def test_two_tasks_that_are_judged_by_different_metrics() -> None:
    found = summarize(report([0.6, 0.8, 0.2, 0.4]), TWO, 7.5)
    assert found == {
        "score": pytest.approx(0.5),
        "score_mean": pytest.approx(0.5),
        "score_std": pytest.approx(stdev([0.4, 0.6])),
        "seeds": 2.0,
        "step": 4.0,
        "seconds": 7.5,
        "replica_steps": 16.0,
        **LOSSES,
        "share/task_0": pytest.approx(0.7),
        "share/task_1": pytest.approx(0.3),
        "accuracy/task_0/seed_0": 0.3,
        "accuracy/task_0/seed_1": 0.4,
        "retrieval/task_1/seed_0": 0.1,
        "retrieval/task_1/seed_1": 0.2,
        "share/task_0/seed_0": 0.6,
        "share/task_0/seed_1": 0.8,
        "share/task_1/seed_0": 0.2,
        "share/task_1/seed_1": 0.4,
    }
    assert replica_values(found, TWO) == [0.6, 0.8, 0.2, 0.4]
    assert replica_values(found, TWO, "judged") == [0.3, 0.4, 0.1, 0.2]
    alike = Plan([{"dpc": 1}, {"dpc": 2}], [5, 6], [4, 8], Robust(), None)
    assert summarize(report([0.6, 0.8, 0.2, 0.4]), alike, 7.5)["accuracy"] == pytest.approx(0.25)


@pytest.mark.parametrize("plan", [ONE, TWO])
def test_a_further_stage_of_racing_adds_its_seeds(plan: Plan) -> None:
    """Each task's seeds of the first stage, then those of the second; steps and replica-steps go on."""
    tasks = len(plan.tasks)
    first = summarize(report([0.6, 0.1][:tasks], step=8), plan, 1.0)
    assert (first["seeds"], first["replica_steps"], first["score_std"]) == (1.0, 8.0 * tasks, 0.0)
    shares = [0.8, 0.7, 0.2, 0.3][: 2 * tasks]
    within = summarize(report(shares), plan, 2.0, first, within=True)
    progress = {"step": 12.0, "seconds": 2.0, "replica_steps": 8.0 * tasks + 4 * 2 * tasks}
    assert within == {**first, **progress, **LOSSES}
    ended = summarize(report(shares, step=8), plan, 3.0, first)
    assert (ended["seeds"], ended["step"], ended["replica_steps"]) == (3.0, 16.0, 8.0 * tasks + 8 * 2 * tasks)
    assert replica_values(ended, plan) == ([0.6, 0.8, 0.7] if tasks == 1 else [0.6, 0.8, 0.7, 0.1, 0.2, 0.3])
    assert replica_values(ended, plan, "judged") == [x / 2 for x in replica_values(ended, plan)]
    means = [0.6, 0.8, 0.7] if tasks == 1 else [0.35, 0.5, 0.5]
    assert ended["score_mean"] == pytest.approx(sum(means) / 3)
    assert ended["score_std"] == pytest.approx(stdev(means))


def test_secondary_objectives_are_scored_as_the_first_is() -> None:
    found = summarize(report([0.6, 0.8], secondary={"worst_class": [0.2, 0.4]}), ONE, 0.0)
    assert found["objective/worst_class"] == pytest.approx(0.3 - 2 * stdev([0.2, 0.4]))


def test_diagnostics_are_means_over_all_stages() -> None:
    first = summarize(report([0.6], diagnostics=[{"alignment": 0.9}]), ONE, 0.0)
    assert first["diagnostics/alignment"] == 0.9
    second = summarize(report([0.6, 0.8], diagnostics=[{"alignment": 0.2}, {"alignment": 0.4}]), ONE, 0.0, first)
    assert second["diagnostics/alignment"] == pytest.approx((0.9 + 0.2 + 0.4) / 3)
