"""Where settings are run after the trials, and on how many seeds."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from search.analysis.cost import confirmation_budget, fewest_confirmation_runs, most_confirmation_runs, reserved_runs
from search.analysis.surrogate import Scored, Surface
from search.confirmation.reporting import plan_report
from search.confirmation.stages import ConfirmationStages
from search.ledger.ledger import Report, TrialRecord
from search.space.files import load_space
from search.space.model import Space


def test_learning_rates_of_choices_are_those_of_the_chosen_setting() -> None:
    """Only what has a range can be spread over."""
    searched = "{learning_rate_vision: {choices: [1.0, 3.0]}, learning_rate_audio: {low: 0.3, high: 100, log: true}}"
    space = load_space("quickstart", [f"search={searched}"])
    rates = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 90.0]
    surface = Surface(
        space, [Scored({"learning_rate_vision": 1.0, "learning_rate_audio": r}, 0.5 + r / 1000, 0.01) for r in rates]
    )
    confirmation = ConfirmationStages.__new__(ConfirmationStages)
    confirmation.space, confirmation.choosing_seeds = space, [1, 2, 3, 4]
    tried: dict[str, dict[str, Any]] = {}

    def run(settings: dict[str, dict[str, Any]], *_: Any) -> dict[str, Any]:
        tried.update(settings)
        return dict(settings)

    confirmation.run, confirmation.score = run, lambda h: h["learning_rate_audio"]  # type: ignore[assignment, method-assign]
    best = confirmation.tuned_rates(surface, {"learning_rate_vision": 3.0, "learning_rate_audio": 5.0})
    assert best is not None and best["learning_rate_audio"] == max(h["learning_rate_audio"] for h in tried.values())
    spread = list(tried.values())[2:]
    assert len(spread) == space.confirmation.tuned_rates
    assert {h["learning_rate_vision"] for h in spread} == {3.0}


def trials(space: Space, count: int) -> list[TrialRecord]:
    """So many trials that ran to their end."""
    metrics = {"score": 0.9, "score_mean": 0.9, "score_std": 0.01, "seeds": float(space.seeds)}
    reports = (Report(space.steps, 1.0, 1.0, metrics),)
    seeds = list(range(space.seeds))
    return [
        TrialRecord(i, None, {}, {}, seeds, 0.0, "completed", space.steps, 0.9, reports=reports) for i in range(count)
    ]


def test_the_budget_is_what_the_trials_took_unless_told_otherwise() -> None:
    space = load_space("quickstart")
    assert confirmation_budget(space, trials(space, 40)) == 40 * space.seeds == 120
    assert most_confirmation_runs(space, trials(space, 40)) == 120
    told = load_space("quickstart", [f"confirmation.budget={200 * space.steps}"])
    assert confirmation_budget(told, trials(space, 40)) == 200
    rich = load_space("quickstart", ["confirmation.budget=100000000"])
    assert most_confirmation_runs(rich, []) < 600  # all that could be run
    none = load_space("quickstart", ["confirmation.budget=0"])
    fewest = fewest_confirmation_runs(space)
    assert confirmation_budget(none, trials(space, 40)) == most_confirmation_runs(none, []) == fewest == 61


@pytest.mark.parametrize("wanted", [4, 11, 20])
@pytest.mark.parametrize("movable", [0, 1, 2])
def test_a_report_stays_within_what_is_left(wanted: int, movable: int) -> None:
    space = load_space("quickstart")
    for left in range(20, 400):
        planned = plan_report(space, left, wanted, movable, lambda n: 5 * n, lambda n: 3 * n)
        moved = planned.moved * planned.around * space.confirmation.perturbed_seeds
        assert 5 * planned.seeds + 3 * planned.single + moved <= left
        assert 4 <= planned.seeds <= wanted and (planned.moved == 0 or planned.moved >= 8)
    assert (planned.seeds, planned.single, planned.around) == (wanted, 3, movable)
    assert planned.moved == (space.confirmation.reported_perturbations if movable else 0)


def test_the_time_limits_the_runs_at_the_pace_of_those_that_have_run() -> None:
    """An estimate first, then what was measured; the budget where that is less, and where there is no limit of time."""
    left = [1150.0]
    confirmation = ConfirmationStages.__new__(ConfirmationStages)
    confirmation.space, confirmation.plan = load_space("quickstart"), SimpleNamespace(folds=1)  # type: ignore[assignment]
    confirmation.budget = 120
    confirmation.reruns = SimpleNamespace(done=0, seconds=0.0, asked=set())  # type: ignore[assignment]
    confirmation.seconds_left, confirmation._run_seconds = (lambda: left[0]), 10.0
    assert confirmation.left == 100 and confirmation.limited_by == "time"  # 15 % of margin
    confirmation.reruns.done, confirmation.reruns.seconds = 20, 100.0
    confirmation.reruns.asked = set(range(20))  # type: ignore[arg-type]
    assert confirmation.left_in_time == 200 and confirmation.left == 100 and confirmation.limited_by == "budget"
    left[0] = 115.0
    assert confirmation.left == 20
    reserved = reserved_runs(confirmation.space)
    assert not confirmation.affords(1) and not confirmation.affords(21 - reserved)
    left[0] = -5.0
    assert confirmation.left == 0
    left[0] = math.inf
    assert confirmation.left == 100
