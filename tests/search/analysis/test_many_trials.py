"""The model of thousands of trials: of a sample of them, which changes nothing where they are few."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.analysis import robustness
from search.analysis.coordinates import Coordinates
from search.analysis.robustness import plateau_setting, surface_of
from search.analysis.surrogate import MOST_TRIALS, Scored, Surface, informative, left_out, scored
from search.ledger.ledger import Report, TrialRecord
from search.space.model import Space

sys.path.append(str(Path(__file__).parents[1] / "confirmation"))
from landscape import SPACE, truth


def draw(count: int, seed: int, space: Space = SPACE) -> list[Scored]:
    """Trials as a sampler leaves them: three in four near the best ones."""
    rng, coordinates = np.random.default_rng(seed), Coordinates(space)
    best, found = np.array([0.33, 0.33, 0.47]), []
    for _ in range(count):
        point = rng.uniform(size=3)
        if rng.uniform() < 0.75:
            point = np.clip(best + rng.normal(0, 0.15, 3), 0, 1)
        params = coordinates.params(point)
        mean, std = truth(params)
        found.append(Scored(params, mean + rng.normal(0, std / 3**0.5), std / 3**0.5))
    return found


def test_few_trials_are_all_taken() -> None:
    trials = draw(MOST_TRIALS, 0)
    assert informative(SPACE, trials) == trials
    assert left_out(trials) == {}


def test_of_many_the_best_and_what_fills_the_space() -> None:
    trials = draw(2000, 0)
    kept = informative(SPACE, trials)
    assert len(kept) == MOST_TRIALS and kept == informative(SPACE, trials)
    assert left_out(trials) == {"left_out": 1500}
    assert [t for t in trials if t in kept] == kept  # in their order
    best = sorted(trials, key=lambda t: -t.mean)[:150]
    assert all(t in kept for t in best)
    coordinates = Coordinates(SPACE)

    def farthest(some: list[Scored]) -> float:
        """How far a trial is from the nearest of `some`, at most."""
        points, every = (np.array([coordinates.at(t.params) for t in own]) for own in (some, trials))
        return float(np.sqrt(((every[:, None] - points[None]) ** 2).sum(2)).min(1).max())

    rng = np.random.default_rng(0)
    drawn = [trials[i] for i in rng.choice(2000, MOST_TRIALS, replace=False)]
    assert farthest(kept) < 0.6 * farthest(drawn)


def test_trials_at_one_point_are_no_trouble() -> None:
    same = [Scored({"lambda_cross": 1.0, "lambda_joint": 1.0, "frequency_scale": 1.0}, 0.5, 0.01)] * 30
    assert len(informative(SPACE, same, most=10)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_setting_found_is_as_good_as_that_of_a_model_of_all(seed: int) -> None:
    """On a landscape with a plateau beside a hill of noise, whose true means are known."""
    trials = draw(120, seed)
    whole, capped = (plateau_setting(Surface(SPACE, some), 0.3) for some in (trials, informative(SPACE, trials, 60)))
    assert truth(capped[0])[0] > truth(whole[0])[0] - 0.004
    assert truth(capped[0])[0] > 0.89  # of 0.90


class Counted(Mapping[str, float]):
    """Metrics that count how often they are read."""

    reads = 0

    def __init__(self, own: dict[str, float]) -> None:
        self.own = own

    def __getitem__(self, key: str) -> float:
        Counted.reads += 1
        return self.own[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


def record(number: int, steps: int, params: dict[str, Any] | None = None) -> TrialRecord:
    """Ten reports, or as many as it has steps by then."""
    own: Any = [Counted({"score_mean": 0.5 + s / 100, "score_std": 0.01, "seeds": 3.0}) for s in range(steps)]
    reports = tuple(Report(s + 1, 1.0, 1.0, metrics) for s, metrics in enumerate(own))
    known = params or {"lambda_cross": 1.0, "lambda_joint": 1.0, "frequency_scale": 1.0}
    config = SPACE.hyperparameters(known).model_dump(mode="json")
    status: Any = "completed" if steps == 10 else "pruned"
    return TrialRecord(number, None, known, config, [0, 1, 2], 0.0, status, steps, 0.5, reports=reports)


def reads(count: int) -> int:
    Counted.reads = 0
    found = scored([record(i, 10 if i % 2 else 4) for i in range(count)])
    assert {round(t.mean, 6) for t in found} == {0.59}  # stopped at 0.53, with a median gain of 0.06 to come
    return Counted.reads


def test_what_stopped_trials_would_have_gained_is_found_in_one_pass() -> None:
    assert reads(400) <= 4.2 * reads(100)


def test_a_search_of_many_trials_is_modelled_by_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, sizes = np.random.default_rng(0), []
    coordinates = Coordinates(SPACE)
    monkeypatch.setattr(robustness, "Surface", lambda space, trials: sizes.append(len(trials)))
    records = [record(i, 10, coordinates.params(rng.uniform(size=3))) for i in range(700)]
    surface_of(SPACE, records)
    surface_of(SPACE, records[:300])
    assert sizes == [MOST_TRIALS, 300]
