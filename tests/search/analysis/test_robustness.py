"""Where the score is good, on responses whose answer is known: a peak in log lambda, noise, and two bystanders."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from search.analysis.robustness import plateau_setting, robust_region
from search.analysis.surrogate import FEWEST_TRIALS, Scored, Surface, scored
from search.ledger.ledger import NOT_FINITE, Report, TrialRecord
from search.space.model import Robust, Space

RANGES: dict[str, dict[str, Any]] = {
    "lambda_cross": {"low": 0.01, "high": 100, "log": True},
    "frequency_scale": {"low": 0.1, "high": 4, "log": True},
    "alpha": {"low": 0.0, "high": 2.0},
    "optimizer": {"choices": ["sgd", "adam"]},
}
NUMBERS = ("lambda_cross", "frequency_scale", "alpha")
MIDDLE: dict[str, Any] = {"lambda_cross": 1.0, "frequency_scale": 1.0, "alpha": 1.0, "optimizer": "sgd"}
STANDARD_ERROR = 0.02


def make_space(**search: dict[str, Any]) -> Space:
    return Space.model_validate({"name": "known", "tasks": [{"dpc": 1}], "search": search or RANGES})


def draw(seed: int, response: Callable[[dict[str, Any]], float], noise: float = 0.005, count: int = 40) -> list[Scored]:
    """Trials all over the space, whose means are `response` under noise."""
    rng = np.random.default_rng(seed)
    trials = []
    for _ in range(count):
        params = {
            "lambda_cross": 10 ** rng.uniform(-2, 2),
            "frequency_scale": math.exp(rng.uniform(math.log(0.1), math.log(4))),
            "alpha": rng.uniform(0, 2),
            "optimizer": str(rng.choice(["sgd", "adam"])),
        }
        trials.append(Scored(params, response(params) + rng.normal(0, noise), STANDARD_ERROR))
    return trials


def peak(curvature: float, centre: float = 0.0) -> Callable[[dict[str, Any]], float]:
    """0.9 at log10(lambda_cross) = centre, falling with its square; nothing else matters."""
    return lambda params: 0.9 - curvature * (math.log10(params["lambda_cross"]) - centre) ** 2


def region_of(space: Space, trials: list[Scored], recommended: dict[str, Any]) -> dict[str, list[float]]:
    return robust_region(Surface(space, trials), recommended)


def decades(region: dict[str, list[float]]) -> tuple[float, float]:
    low, high = region["lambda_cross"]
    return math.log10(low), math.log10(high)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("curvature", [0.02, 0.08, 0.3])
def test_it_ends_one_standard_error_below_the_peak(curvature: float, seed: int) -> None:
    low, high = decades(region_of(make_space(), draw(seed, peak(curvature)), MIDDLE))
    true = math.sqrt(STANDARD_ERROR / curvature)
    assert low == pytest.approx(-true, rel=0.35)
    assert high == pytest.approx(true, rel=0.35)


@pytest.mark.parametrize("seed", range(3))
def test_a_sharp_peak_leaves_less_room_than_a_flat_one(seed: int) -> None:
    flat, round_, sharp = (
        high - low
        for low, high in (decades(region_of(make_space(), draw(seed, peak(c)), MIDDLE)) for c in (0.02, 0.1, 0.5))
    )
    assert flat > 1.5 * round_ > 2 * sharp


def test_what_does_not_matter_may_be_anything() -> None:
    region = region_of(make_space(), draw(0, peak(0.1)), MIDDLE)
    for name in ("frequency_scale", "alpha"):
        assert region[name] == pytest.approx([RANGES[name]["low"], RANGES[name]["high"]])


def test_more_uncertainty_leaves_more_room() -> None:
    trials = draw(0, peak(0.1))
    doubtful = [Scored(t.params, t.mean, 4 * t.standard_error) for t in trials]
    narrow, wide = (decades(region_of(make_space(), ts, MIDDLE)) for ts in (trials, doubtful))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_noise_counts_where_the_seeds_of_a_trial_agree_by_chance() -> None:
    trials = [Scored(t.params, t.mean, 0.0) for t in draw(0, peak(0.1), noise=0.03, count=80)]
    low, high = decades(region_of(make_space(), trials, MIDDLE))
    true = math.sqrt(0.03 / 0.1)
    assert -2 * true < low < -true / 2
    assert true / 2 < high < 2 * true


def test_a_second_hill_is_not_joined() -> None:
    def hills(params: dict[str, Any]) -> float:
        at = math.log10(params["lambda_cross"])
        return 0.9 - 0.2 * min((at + 1) ** 2, (at - 1) ** 2)

    recommended = {**MIDDLE, "lambda_cross": 0.1}
    low, high = decades(region_of(make_space(), draw(0, hills, count=60), recommended))
    assert -1.6 < low < -1 < high < -0.4


@settings(max_examples=10, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(
    seed=st.integers(0, 1000),
    curvature=st.floats(0, 1),
    centre=st.floats(-3, 3),
    count=st.integers(FEWEST_TRIALS, 40),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_it_holds_the_recommended_value_and_ends_where_the_space_does(
    seed: int, curvature: float, centre: float, count: int, at: tuple[float, float, float]
) -> None:
    recommended = {
        "lambda_cross": min(max(10 ** (4 * at[0] - 2), 0.01), 100.0),
        "frequency_scale": min(max(0.1 * 40 ** at[1], 0.1), 4.0),
        "alpha": 2 * at[2],
        "optimizer": "sgd",
    }
    region = region_of(make_space(), draw(seed, peak(curvature, centre), count=count), recommended)
    assert tuple(region) == NUMBERS
    for name, (low, high) in region.items():
        assert low <= recommended[name] <= high
        assert low > RANGES[name]["low"] - 1e-9 and high < RANGES[name]["high"] + 1e-9


def test_one_answer_to_one_question() -> None:
    trials = draw(0, peak(0.1))
    assert region_of(make_space(), trials, MIDDLE) == region_of(make_space(), trials, MIDDLE)


def test_there_is_no_telling_from_few_trials() -> None:
    trials = draw(0, peak(0.1), count=FEWEST_TRIALS)
    with pytest.raises(ValueError, match="too few for a model"):
        Surface(make_space(), trials[1:])
    assert region_of(make_space(), trials, MIDDLE).keys() == set(NUMBERS)


def test_choices_have_no_range() -> None:
    trials = draw(0, peak(0.1))
    assert "optimizer" not in region_of(make_space(), trials, MIDDLE)
    with pytest.raises(ValueError, match="0 numeric"):
        Surface(make_space(optimizer=RANGES["optimizer"]), trials)
    assert robust_region(None, MIDDLE) == {}


def test_equal_scores_are_good_everywhere() -> None:
    region = region_of(make_space(), draw(0, lambda params: 0.5, noise=0), MIDDLE)
    assert region == {name: pytest.approx([RANGES[name]["low"], RANGES[name]["high"]]) for name in NUMBERS}


def test_the_ends_of_a_range_can_be_proposed() -> None:
    space = make_space()
    region = region_of(space, draw(0, lambda params: 0.5, noise=0), MIDDLE)
    assert {n: end for n, ends in region.items() for end in ends if not space.search[n].contains(end)} == {}


def record(number: int, status: Any, means: dict[int, float], **changes: Any) -> TrialRecord:
    """A trial of four seeds with a report (std 0.1) per step -> mean."""
    reports = tuple(
        Report(step, float(step), float(step), {"score": mean - 0.1, "score_mean": mean, "score_std": 0.1})
        for step, mean in means.items()
    )
    known: dict[str, Any] = {"name": None, "params": {"lambda_cross": float(number + 1)}, "config": {}, "created": 0.0}
    known |= {"steps": max(means, default=0), "seeds": [0, 1, 2, 3]} | changes
    return TrialRecord(number=number, status=status, reports=reports, **known)


COMPLETED = [
    record(0, "completed", {2: 0.1, 4: 0.3, 6: 0.4}),  # gains 0.3 from step 2, 0.1 from step 4
    record(1, "completed", {2: 0.5, 4: 0.8, 6: 0.9}),  # 0.4, 0.1
    record(2, "completed", {2: 0.2, 4: 0.6, 6: 0.9}),  # 0.7, 0.3
]


def test_completed_trials_score_what_they_reported_last() -> None:
    found = scored(COMPLETED)
    assert [trial.mean for trial in found] == [0.4, 0.9, 0.9]
    assert [trial.params for trial in found] == [one.params for one in COMPLETED]
    assert [trial.standard_error for trial in found] == [pytest.approx(0.1 / math.sqrt(4))] * 3


def test_stopped_trials_get_the_median_of_what_others_gained_from_there() -> None:
    stopped = [record(3, "pruned", {2: 0.05}), record(4, "pruned", {2: 0.1, 4: 0.15})]
    found = scored([*stopped, *COMPLETED])
    assert [trial.mean for trial in found[:2]] == [pytest.approx(0.05 + 0.4), pytest.approx(0.15 + 0.1)]
    assert found[2:] == scored(COMPLETED)


def test_stopped_trials_alone_gain_nothing() -> None:
    assert [trial.mean for trial in scored([record(0, "pruned", {2: 0.5}), record(1, "pruned", {2: 0.25})])] == [
        0.5,
        0.25,
    ]


def test_a_trial_that_diverged_counts_as_the_worst() -> None:
    lost = record(3, "failed", {2: 0.9}, error=f"the uni {NOT_FINITE} at step 3 (seed 1)")
    *known, last = scored([lost, *COMPLETED])
    assert known == scored(COMPLETED)
    assert (last.params, last.mean) == (lost.params, min(t.mean for t in known))
    assert scored([lost]) == []  # nothing to compare it with


def test_by_the_lowest_replicas_the_model_is_of_the_score() -> None:
    assert [t.mean for t in scored(COMPLETED, Robust(rule="worst_case"))] == [pytest.approx(m) for m in (0.3, 0.8, 0.8)]
    assert [t.mean for t in scored(COMPLETED, Robust(rule="mean_std"))] == [0.4, 0.9, 0.9]


def test_what_says_nothing_of_the_space_is_left_out() -> None:
    others = [
        record(3, "failed", {2: 0.9}),
        record(4, "unfinished", {2: 0.9}),
        record(5, "pruned", {}),
        record(6, "completed", {2: 0.0, 6: 0.9}, name="paper_default"),
    ]
    assert scored([*others, *COMPLETED]) == scored(COMPLETED)
    default = record(7, "completed", {6: 0.9}, name="default")
    assert [trial.params for trial in scored([default])] == [default.params]


def test_a_default_that_is_none_of_the_choices_is_no_candidate() -> None:
    """Its column would be read as the first choice, of which nothing is known."""
    space = make_space(lambda_cross=RANGES["lambda_cross"], lambda_joint={"choices": [0.01, 1.0]})
    rng = np.random.default_rng(0)
    trials = [
        Scored({"lambda_cross": 10 ** rng.uniform(-2, 2), "lambda_joint": joint}, 0.4 + 0.4 * (joint == 1.0), 0.003)
        for joint in (0.01, 1.0) * 8
    ]
    trials += [Scored({"lambda_cross": value, "lambda_joint": 10.0}, 0.95, 0.003) for value in (1.0, 10.0)]
    params, predicted = plateau_setting(Surface(space, trials), 0.3)
    assert params["lambda_joint"] == 1.0
    assert predicted == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_what_leaving_trials_out_gives(seed: int) -> None:
    """Against brute force: the same kernel, conditioned on all trials but one."""
    surface = Surface(make_space(), draw(seed, peak(0.1), noise=0.03, count=20))
    process = surface._process
    kernel, x, y = process.kernel_, process.X_train_, process.y_train_
    error, covered = [], []
    for i in range(len(y)):
        rest = [j for j in range(len(y)) if j != i]
        inverse = np.linalg.inv(kernel(x[rest]) + np.diag(process.alpha[rest]))
        across = kernel(x[i : i + 1], x[rest])[0]
        mean = across @ inverse @ y[rest]
        variance = kernel.diag(x[i : i + 1])[0] + process.alpha[i] - across @ inverse @ across
        error.append(y[i] - mean)
        covered.append(abs(y[i] - mean) <= 1.96 * math.sqrt(variance))
    assert surface.check.rmse == pytest.approx(float(np.sqrt(np.mean(np.square(error)))) * surface._spread, rel=1e-4)
    assert surface.check.r2 == pytest.approx(1 - float(np.mean(np.square(error)) / y.var()), abs=1e-4)
    assert surface.check.coverage == pytest.approx(np.mean(covered))


def test_a_model_of_noise_is_not_trusted_and_one_of_a_peak_is() -> None:
    noise = [Surface(make_space(), draw(s, peak(0.0), noise=0.02)).check.trusted for s in range(6)]
    peaks = [Surface(make_space(), draw(s, peak(0.1), noise=0.02)).check.trusted for s in range(6)]
    assert sum(noise) <= 1 and sum(peaks) == 6


def test_no_mean_is_predicted_above_what_trials_show() -> None:
    """A cliff beside a good region: a model of the raw scores swings to 1.0 and more behind the last good trials."""

    def cliff(params: dict[str, Any]) -> float:
        at = math.log10(params["lambda_cross"])
        return 0.35 if at > 1.0 else 0.9 + 0.03 * at

    surface = Surface(make_space(), draw(0, cliff, count=30))
    everywhere = surface.mean(np.random.default_rng(0).uniform(size=(4000, surface.points.shape[1])))
    assert everywhere.max() <= surface.mean(surface.points).max() + 1e-12
    assert plateau_setting(surface, 0.3)[1] <= surface.mean(surface.points).max()
