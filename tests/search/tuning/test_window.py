"""What a sampler sees of a long search, and that a proposal costs no more late than early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages.journal import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from test_sampler import make_space, run

from search.ledger.ledger import Ledger
from search.tuning.searcher import SpaceSearcher
from search.tuning.window import BEST, LATEST, MOST, Windowed, seen, slow_sampler

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


def study_of(count: int, seed: int = 0, objectives: int = 1) -> optuna.Study:
    """A third completed, a third stopped early, a tenth failed, the others under way."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(directions=["maximize"] * objectives)
    trials = []
    for _ in range(count):
        params, score = {name: float(rng.uniform()) for name in SPACE}, float(rng.uniform())
        fate = rng.choice(4, p=[0.35, 0.35, 0.1, 0.2])
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)[fate]
        values = [score, *rng.uniform(size=objectives - 1)] if fate == 0 else None
        told = {10: score, **({20: score} if fate == 1 and score > 0.5 else {})} if fate < 2 else {}
        trials.append(
            create_trial(state=state, values=values, params=params, distributions=SPACE, intermediate_values=told)
        )
    study.add_trials(trials)
    return study


def ended(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def test_a_short_search_is_seen_whole() -> None:
    trials = study_of(600).trials
    assert len(ended(trials)) <= MOST
    assert seen(trials) == trials


@pytest.mark.parametrize("objectives", [1, 2])
def test_a_long_one_by_its_best_its_latest_and_evenly_many_between(objectives: int) -> None:
    trials = study_of(1200, objectives=objectives).trials
    shown = seen(trials)
    numbers = {t.number for t in shown}
    assert len(ended(shown)) == MOST
    assert [t.number for t in shown] == sorted(numbers)
    assert all(t.number in numbers for t in trials if t.state == TrialState.RUNNING)
    assert {t.number for t in ended(trials)[-LATEST:]} <= numbers
    completed = [t for t in trials if t.state == TrialState.COMPLETE]
    if objectives == 1:
        assert {t.number for t in sorted(completed, key=lambda t: -t.values[0])[:BEST]} <= numbers
    else:
        front = [
            t
            for t in completed
            if not any(o is not t and all(a >= b for a, b in zip(o.values, t.values, strict=True)) for o in completed)
        ]
        assert {t.number for t in front} <= numbers
    early = [t for t in ended(shown) if t.number < 600]
    assert 0.4 < len(early) / MOST < 0.6


def test_where_few_completed_those_stopped_late_are_among_the_best() -> None:
    trials = [t for t in study_of(1800).trials if t.state == TrialState.PRUNED]
    late = sorted((t for t in trials if 20 in t.intermediate_values), key=lambda t: -t.intermediate_values[20])
    assert {t.number for t in late[:BEST]} <= {t.number for t in seen(trials)}


def asked(study: optuna.Study, windowed: bool, **more: Any) -> dict[str, Any]:
    sampler: Any = TPESampler(seed=3, n_startup_trials=5, constant_liar=True, **more)
    study.sampler = Windowed(sampler, SPACE, more.get("multivariate", True)) if windowed else sampler
    return study.ask(SPACE).params


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("multivariate", [True, False])
@pytest.mark.parametrize("count", [3, 40, 600])
def test_a_short_search_gets_the_proposals_of_a_sampler_that_sees_all(count: int, multivariate: bool) -> None:
    whole, windowed = (asked(study_of(count), windowed, multivariate=multivariate) for windowed in (False, True))
    assert whole == windowed


def test_a_sampler_gets_no_more_trials_in_a_longer_search() -> None:
    class Counting(RandomSampler):
        def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
            counts.append(len(study._get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))))
            return {}

    counts: list[int] = []
    for length in (1000, 2000):
        study = study_of(length)
        study.sampler = Windowed(Counting(), SPACE)
        study.ask(SPACE)
    assert counts == [MOST, MOST]


def test_opening_a_search_and_a_proposal_list_the_trials_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each of them: that was quadratic."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    space = make_space("tpe", 40)
    run(space, tmp_path, most=30)
    calls = []
    listing = JournalStorage.get_all_trials
    monkeypatch.setattr(JournalStorage, "get_all_trials", lambda *a, **k: calls.append(1) or listing(*a, **k))
    ledger = Ledger.open(tmp_path, space.model_dump(mode="json"), resume=True)
    searcher = SpaceSearcher(space, ledger)
    assert len(calls) <= 3
    calls.clear()
    searcher.suggest("next")
    assert len(calls) <= 4
    ledger.close()


def test_a_sampler_that_is_slow_at_so_many_trials_is_said() -> None:
    assert slow_sampler(make_space("gp", 400)) is None and slow_sampler(make_space("tpe", 4000)) is None
    assert "takes seconds" in str(slow_sampler(make_space("gp", 4000)))
