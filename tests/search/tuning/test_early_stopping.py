"""Hyperband and the median rule: who is stopped, in one go or after an interruption; nobody is ever paused."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from search.ledger.records import PastReport, Report
from search.space.files import load_space
from search.space.model import Space
from search.space.plan import sampler_notes
from search.tuning.early_stopping import build_scheduler, prefill
from search.tuning.sampler import build_sampler

STEPS = range(10, 91, 10)


def make(name: str, *more: str) -> Space:
    return load_space(
        "quickstart", ["steps=90", "report_every=10", f"scheduler={{name: {name}, grace_steps: 10}}", *more]
    )


class Pending:
    """A controller with a trial that waits: some of Ray's schedulers would pause another for it."""

    def get_live_trials(self) -> list[Any]:
        return [SimpleNamespace(status="PENDING")]


def trial(number: int) -> Any:
    class Trial:
        trial_id, config = f"t{number}", {"number": number}

    return Trial()


def run(scheduler: Any, numbers: range, history: list[PastReport] | None = None) -> dict[int, int]:
    """Trials one after the other, a third of them bad; number -> step at which it was stopped, or the last."""
    ended = {}
    for number in numbers:
        own, rng, reports = trial(number), np.random.default_rng(number), []
        scheduler.on_trial_add(Pending(), own)
        for step in STEPS:
            score = (0.3 if number % 3 == 2 else 0.7) + step / 1000 + rng.normal() / 100
            result = {"step": step, "score": score}
            reports.append(Report(step, number * 100 + step, 1.0, {"score": score}))
            decision = scheduler.on_trial_result(Pending(), own, result)
            assert decision in (TrialScheduler.CONTINUE, TrialScheduler.STOP)
            if decision == TrialScheduler.STOP:
                break
        scheduler.on_trial_complete(Pending(), own, result)
        ended[number] = step
        if history is not None:
            status: Any = "completed" if step == STEPS[-1] else "pruned"
            history += [PastReport(number, r, status if r is reports[-1] else None) for r in reports]
    return ended


@pytest.mark.parametrize("name", ["hyperband", "median", "asha"])
def test_bad_trials_are_stopped_and_the_same_after_an_interruption(name: str) -> None:
    history: list[PastReport] = []
    first = build_scheduler(make(name))
    early = run(first, range(30), history)
    whole = early | run(first, range(30, 60))
    bad = [step for number, step in whole.items() if number % 3 == 2]
    good = [step for number, step in whole.items() if number % 3 != 2]
    assert np.mean(bad) < 0.85 * np.mean(good) and min(good[3:]) >= 10 and np.median(bad) <= 30
    resumed = build_scheduler(make(name))
    prefill(resumed, history, 90)
    assert run(resumed, range(30, 60)) == {n: whole[n] for n in range(30, 60)}


def test_hyperband_has_brackets_with_later_rungs_which_a_trials_number_decides_on() -> None:
    scheduler: Any = build_scheduler(make("hyperband"))
    rungs = [[milestone for milestone, _ in reversed(bracket._rungs)] for bracket in scheduler._brackets]
    assert rungs == [[10, 30, 90], [30, 90], [90]]
    for number in range(300):
        scheduler.on_trial_add(None, trial(number))
    found = Counter(scheduler._brackets.index(bracket) for bracket in scheduler._trial_info.values())
    assert found[0] > found[1] > found[2] > 10
    again: Any = build_scheduler(make("hyperband"))
    again.on_trial_add(None, trial(7))
    assert again._brackets.index(again._trial_info["t7"]) == scheduler._brackets.index(scheduler._trial_info["t7"])


def test_the_median_rule_does_not_judge_a_replayed_report() -> None:
    scheduler: Any = build_scheduler(make("median"))
    run(scheduler, range(0, 9, 3))
    late = trial(100)
    scheduler.on_trial_add(None, late)
    result = {"step": 20, "score": 0.1}
    assert scheduler.on_trial_result(None, late, {**result, "replayed": True}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, late, {**result, "step": 30}) == TrialScheduler.STOP


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], "gp"),
        (["trials=201"], "tpe"),
        (["search.optimizer.choices=[sgd, adam]"], "tpe"),
        (["constraints=[lambda_joint < lambda_cross]"], "tpe"),
    ],
)
def test_a_sampler_by_rule_of_thumb(changes: list[str], expected: str) -> None:
    space = make("asha", "trials=200", "sampler.name=auto", *changes)
    assert space.sampler_name == expected
    assert sampler_notes(space) == [f"`sampler: auto` is {expected} in this space"]
    assert expected in type(build_sampler(space, 0).inner).__name__.lower()  # type: ignore[attr-defined]


def test_who_cannot_model_conditions_says_so() -> None:
    conditional = [
        "search.optimizer.choices=[sgd, adam]",
        "search.momentum={low: 0, high: 0.9, when: {optimizer: sgd}}",
    ]
    (note,) = sampler_notes(make("asha", "sampler.name=cmaes", *conditional))
    assert note == "cmaes draws momentum at random: only tpe models a hyperparameter with `when`"
    assert sampler_notes(make("asha", "sampler.name=tpe", *conditional)) == []
