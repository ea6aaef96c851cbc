"""What single seeds would have chosen, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from search.analysis.coordinates import sobol_points
from search.analysis.importance import importances
from search.analysis.paired import Items
from search.analysis.ranking import best_by_single_seed
from search.analysis.surrogate import Scored, scored
from search.confirmation.held_out import HeldOut
from search.ledger.ledger import Report, TrialRecord
from search.report.confirmed import confirmed_settings
from search.space.model import Robust, Space
from search.space.plan import Plan
from search.tuning.sampler import distributions

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
        f"best_single_seed/{n}": {"shares": x, "hits": [None] * 4, "hyperparameters": {"of": n}, "seeds": [7, 8]}
        for n, x in shares.items()
    }
    for label, number in (("recommended", 4), ("best", 4), ("default", 1), ("paper_default", 1), ("mmd", 0)):
        runs[label] = {**runs[f"best_single_seed/{number}"]}
    choice: Any = SimpleNamespace(
        chosen=SimpleNamespace(trial=4),
        challenger=SimpleNamespace(trial=4),
        keeps_published=False,
        compared=9,
        stopped=None,
    )
    held_out = HeldOut([Items(10), Items(20)], space.robust)
    found = confirmed_settings(space, PLAN, RECORDS, choice, runs, held_out, 100)
    row = found.best_single_seed
    assert row is not None and row.trials == [0, 1, 4]
    assert row.values == pytest.approx([0.6, 0.7])  # of shares 0.5, 0.6 on one task and 0.7, 0.8 on the other
    assert [task.mean for task in row.tasks] == pytest.approx([0.55, 0.75])
    assert found.differences["best_single_seed"].mean == pytest.approx(0.1)  # to 0.8, 0.7
    assert "best" not in found.differences  # the same setting


ADDITIVE = Space.model_validate(
    {
        "name": "additive",
        "search": {name: {"low": 0.0, "high": 1.0} for name in ("lambda_cross", "lambda_joint", "alpha")},
    }
    | {"tasks": [{"dpc": 1}]}
)
WEIGHTS = {"lambda_cross": 1.0, "lambda_joint": 0.5, "alpha": 0.0}


def additive(params: dict[str, float]) -> float:
    """The variance of a sum of independent terms is the sum of theirs: of w * x, x even in 0 .. 1, w ** 2 / 12."""
    return sum(WEIGHTS[name] * x for name, x in params.items())


def even(count: int) -> list[dict[str, float]]:
    """Settings all over the space."""
    return [dict(zip(WEIGHTS, row, strict=True)) for row in sobol_points(3, count, 0).tolist()]


def importances_of(trials: Sequence[Scored]) -> dict[str, dict[str, float]]:
    return importances(ADDITIVE, trials, distributions(ADDITIVE))


def test_fanova_finds_the_shares_of_variance_of_an_additive_score() -> None:
    found = importances_of([Scored(params, additive(params), 0.01) for params in even(128)])
    assert list(found) == ["ped_anova", "fanova"]
    whole = sum(weight**2 for weight in WEIGHTS.values())
    for name, weight in WEIGHTS.items():
        assert found["fanova"][name] == pytest.approx(weight**2 / whole, abs=0.06)  # 0.8, 0.2, 0
    assert max(found["ped_anova"], key=lambda name: found["ped_anova"][name]) == "lambda_cross"


def test_pruned_trials_count_although_what_survives_hardly_differs_in_what_matters_most() -> None:
    """Two in three are stopped at half of their steps, as by ASHA; there the score is lower by the same 0.3 for all."""
    records: list[TrialRecord] = []
    early: list[float] = []
    for number, params in enumerate(even(128)):
        own = additive(params)
        early.append(own - 0.3)
        goes_on = number < 3 or own - 0.3 >= sorted(early)[-max(1, len(early) // 3)]
        means = [(30, own - 0.3), (60, own)][: 1 + goes_on]
        metrics = {"score_std": 0.01, "seeds": 3.0}
        reports = tuple(Report(step, 0.0, 0.0, {**metrics, "score_mean": mean, "score": mean}) for step, mean in means)
        status: Any = "completed" if goes_on else "pruned"
        steps = means[-1][0]
        records.append(TrialRecord(number, None, params, {}, [0], 0.0, status, steps, means[-1][1], reports=reports))
    survivors = [Scored(r.params, r.metrics["score_mean"], 0.0) for r in records if r.status == "completed"]
    assert 20 < len(survivors) < 64
    assert importances_of(scored(records))["fanova"]["lambda_cross"] == pytest.approx(0.8, abs=0.06)
    assert importances_of(survivors)["fanova"]["lambda_cross"] < 0.74  # so these would not do


def test_high_is_good() -> None:
    """Where lambda_cross is high the score is good, whatever alpha; elsewhere alpha makes it bad or worse."""
    trials = [Scored(p, 1.0 if p["lambda_cross"] > 0.8 else -p["alpha"], 0.0) for p in even(200)]
    assert importances_of(trials)["ped_anova"]["lambda_cross"] > 0.8


def test_a_default_outside_of_the_ranges_is_left_out() -> None:
    trials = [Scored(params, additive(params), 0.0) for params in even(32)]
    outside = Scored({**even(1)[0], "alpha": 7.0}, -100.0, 0.0)
    assert importances_of([*trials, outside]) == importances_of(trials)


def test_without_a_trial_nothing_is_important() -> None:
    assert importances_of([]) == {"ped_anova": {}, "fanova": {}}


def test_fanova_gets_evenly_many_of_very_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """PED-ANOVA gets all of them."""
    asked: list[tuple[str, int]] = []

    def get(study: optuna.Study, evaluator: Any, params: list[str]) -> dict[str, float]:
        asked.append((type(evaluator).__name__, len(study.trials)))
        return {}

    monkeypatch.setattr(optuna.importance, "get_param_importances", get)
    space = Space.model_validate({"name": "x", "tasks": [{}], "search": {"lambda_cross": {"low": 0.0, "high": 1.0}}})
    trials = [Scored({"lambda_cross": i / 1000}, i / 1000, 0.1) for i in range(1000)]
    for count in (1000, 400):
        importances(space, trials[:count], distributions(space))
    assert [size for _, size in asked] == [1000, 500, 400, 400]
