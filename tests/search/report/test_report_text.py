"""What the report says: the verdict from the data, and numbers as a person reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.report import axes, links, text


def confirmed(mean: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    difference = {"mean": mean, "ci95": [low, high], "against": "paper_default"}
    recommended = {"mean": 0.9, "std": 0.01, "n": 8}
    return {"recommended": {"a": 1}, "confirmation": {"recommended": recommended, "difference": difference, **more}}


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (confirmed(0.1, 0.05, 0.15), "0.100 [0.050, 0.150] above the paper's default (95 % interval of"),
        (confirmed(0.1, -0.05, 0.25), "0.100 [−0.050, 0.250] above the paper's default (the interval includes 0: no"),
        (confirmed(-0.1, -0.15, -0.05), "0.100 [0.050, 0.150] below the paper's default"),
        (confirmed(-0.1, -0.25, 0.05), "0.100 [−0.050, 0.250] below the paper's default (the interval includes 0: no"),
        (confirmed(0.1, 0.05, 0.15, shrinkage=0.02), "its score in the search was 0.020 higher, because"),
        (confirmed(0.1, 0.05, 0.15, shrinkage={"mean": -0.02}), "its score in the search was 0.020 lower, so"),
        ({"recommended": {"a": 1}, "confirmation": {"recommended": {"mean": 0.9, "n": 1}}}, "On 1 fresh seed the"),
        ({"recommended": {"a": 1}, "confirmation": {"recommended": {"mean": None}}}, "Not confirmed yet"),
        (confirmed(0.1, 0.05, 0.15, default={"mean": None}), "; the normalised default has no score: not every loss"),
        ({"recommended": None}, "There is no recommendation"),
    ],
)
def test_verdict_says_what_the_data_says(report: dict[str, Any], told: str) -> None:
    assert told in text.verdict(report)


def against(**differences: Any) -> dict[str, Any]:
    entries = {key: {"mean": m, "ci95": [low, high]} for key, (m, low, high) in differences.items()}
    return {
        "recommended": {"a": 1},
        "confirmation": {
            "recommended": {"mean": 0.93, "std": 0.01, "n": 8, "trial": 3},
            "best": {"mean": 0.92, "trial": 5},
            "differences": entries,
            "shrinkage": 0.02,
        },
    }


DEFAULT = (0.06, 0.05, 0.07)


def test_what_several_seeds_would_have_chosen() -> None:
    report = against(best_single_seed=(0.02, 0.01, 0.03))
    report["confirmation"]["best_single_seed"] = {"mean": 0.91, "std": 0.01, "n": 8, "trials": [3, 5, 3]}
    cost = "Choosing by a single seed would have cost 0.020 [0.010, 0.030]"
    assert f"{cost}, the mean over what 3 seeds would have chosen." in text.verdict(report)
    report["confirmation"]["best_single_seed"]["mean"] = None
    assert "would have chosen, one had a loss that was not finite on fresh seeds." in text.verdict(report)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (against(default=DEFAULT, tuned_rates=(0.02, 0.01, 0.03)),
         "Of the 0.060 over the normalised default, tuning the learning rates alone gives 0.040; the lambdas and the "
         "frequency scale add 0.020 [0.010, 0.030]."),
        (against(default=DEFAULT, tuned_rates=(0.002, -0.01, 0.014)),
         "alone gives 0.058; what the lambdas and the frequency scale add, 0.002 [−0.010, 0.014], is within noise."),
        (against(default=DEFAULT, tuned_rates=(-0.02, -0.03, -0.01)),
         "The default lambdas with tuned learning rates do better than it, by 0.020 [0.010, 0.030]: tuning the lambdas and "),
        (against(tuned_rates=(0.02, 0.01, 0.03)), "It is 0.020 [0.010, 0.030] above the default lambdas with tuned"),
        (against(tuned_rates=(0.0, -0.01, 0.01)), "It cannot be told apart from the default lambdas with tuned learning"),
        (against(best=(0.004, -0.003, 0.011)),
         "It cannot be told apart from the search's best trial (0.004 [−0.003, 0.011]); that trial's score in the search "
         "was 0.020 higher, because"),
        (against(best=(0.01, 0.005, 0.015)), "It is 0.010 [0.005, 0.015] above the search's best trial; that"),
        (against(best=(-0.01, -0.015, -0.005)), "It gives up 0.010 [0.005, 0.015] against the search's best trial; that"),
        (against(best_single_seed=(0.02, 0.01, 0.03)), "Choosing by a single seed would have cost 0.020 [0.010, 0.030]."),
        (against(default=DEFAULT), "; the best trial's score in the search was 0.020 higher"),
        (against() | {"perturbation": {"decades": 0.3, "quantile": 0.1, "recommended": {"quantile": 0.9}}},
         "With every hyperparameter moved at random by up to a factor of 2 either way, nine runs in ten still reach 0.900."),
        (against() | {"perturbation": {"decades": 0.3, "quantile": 0.1, "recommended": {"quantile": 0.9, "values": [0.9] * 6}}},
         "nine runs in ten still reach 0.900 (a quantile of 6 runs)."),
        (against() | {"perturbation": {"quantile": 0.05, "recommended": {"quantile": 0.9}}},
         "moved at random a little, 95 % of the runs still reach 0.900."),
    ],
)  # fmt: skip
def test_verdict_tells_the_lambdas_gain_from_the_rates_and_luck_from_skill(report: dict[str, Any], told: str) -> None:
    assert told in text.verdict(report)


def test_verdict_says_where_the_best_trial_is_recommended() -> None:
    report = against(default=DEFAULT)
    report["confirmation"]["best"]["trial"] = 3
    assert "It is the search's best trial; its score in the search was 0.020 higher" in text.verdict(report)


def test_robust_score_is_told_by_its_rule() -> None:
    def told(**robust: Any) -> str:
        return text.robust_rule({"space": {"robust": robust}})

    assert "mean minus 0.5 standard deviations over seeds" in told(rule="mean_std", k=0.5)
    assert "the mean of the lowest 25 % of seeds and tasks" in told(rule="cvar", fraction=0.25)
    assert "the lowest of all" in told(rule="worst_case") and "the mean over seeds" in told(rule="mean")
    assert "mean minus k standard deviations" in text.robust_rule({"space": "spaces/quickstart.yaml"})


def test_verdict_claims_nothing_of_a_setting_that_was_not_run() -> None:
    report = against(default=DEFAULT)
    report["confirmation"] |= {"tuned_rates": None, "paper_default": {"mean": None}}
    assert "the paper's default has no score" in text.verdict(report) and "tuned learning" not in text.verdict(report)


def test_racing_is_told_in_a_sentence() -> None:
    told = text.racing({"seeds": {"1": 30, "4": 8}, "replica_steps": 620, "full": 1240})
    assert told.endswith("30 on 1 seed and 8 on 4 seeds; that took 620 replica-steps instead of 1,240 (50 %).")
    assert text.racing({"seeds": {"3": 10}}).endswith("10 on 3 seeds.") and text.racing(None) == text.racing({}) == ""


def test_differences_name_what_they_are_against() -> None:
    known = text.differences({"difference": {"mean": 0.1}, "differences": {"paper_default": {"mean": 0.2}, "x": {}}})
    assert list(known) == ["paper_default"]


def test_test_verdict_names_the_best_baseline() -> None:
    test = {"recommended": 0.9, "default": 0.95, "random": 0.5, "mmd": {"mean": 0.92}, "full_data": 1.0}
    assert "90 % of what full data gives (1.000); that is 0.020 below the best baseline, MMD" in text.verdict_on_test(
        test
    )
    level = text.verdict_on_test({"recommended": 0.9, "mmd": 0.9002})
    assert level.endswith("; that is level with the best baseline, MMD.")
    assert text.verdict_on_test({"random": 0.5}) == "" and text.verdict_on_test(None) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"), (1234.5, "1,234"), (12, "12"), (6120, "6,120"), (0.00012345, "0.000123"), (-0.5, "−0.5"),
        (1e-7, "1.00e−07"), (99.96, "100"), (0, "0"), (None, "–"), ("sgd", "sgd"), (True, "True"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: Any, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [(0.01, 100, True, [0.01, 0.1, 1, 10, 100]), (0.1, 4, True, [0.1, 0.2, 0.5, 1, 2]), (0, 1, False, [0, 0.5, 1]),
     (1e-6, 1e6, True, [1e-6, 1e-3, 1, 1e3, 1e6]), (3, 3, False, [3])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    found = axes.ticks(low, high, log)
    assert set(np.round(np.log10(expected), 6) if log else expected) <= set(
        np.round(np.log10(found), 6) if log else found
    )
    assert len(found) <= 6


def test_durations() -> None:
    assert [text.duration(s) for s in (1.234, 214.3, 7300, None)] == ["1.23 s", "3 min 34 s", "2 h 1 min", "–"]


def test_mlflow_command_hides_passwords() -> None:
    assert links.mlflow_command("sqlite:///a b.db") == "mlflow ui --backend-store-uri 'sqlite:///a b.db'"
    assert (
        links.mlflow_command("postgresql://me:secret@host/db") == "mlflow ui --backend-store-uri postgresql://host/db"
    )
    assert links.mlflow_command("https://me:secret@host/") is None and links.mlflow_command(None) is None
    assert links.safe_uri("https://me:secret@host:5000/x") == "https://host:5000/x"


def test_a_default_that_is_recommended_is_not_compared_with_itself() -> None:
    """`difference` is there in any case, for who reads the JSON; the page goes by `differences`."""
    itself = {"mean": 0.0, "ci95": [0.0, 0.0], "n": 8, "against": "default"}
    paper = {"mean": 0.02, "ci95": [0.01, 0.03], "n": 8}
    assert set(text.differences({"difference": itself, "differences": {"paper_default": paper}})) == {"paper_default"}
    assert set(text.differences({"difference": paper})) == {"default"}


def test_the_papers_default_may_be_better_than_the_best_trial() -> None:
    for mean, told in (
        (-0.01, "It is the search's best trial, the paper's default aside; its"),
        (0.01, "best trial; its"),
    ):
        report = against(default=DEFAULT, paper_default=(mean, mean - 0.005, mean + 0.005))
        report["confirmation"]["best"]["trial"] = report["confirmation"]["recommended"]["trial"]
        assert told in text.verdict(report)


def searching(**search: dict[str, Any]) -> dict[str, Any]:
    moved = {"decades": 0.3, "quantile": 0.1, "recommended": {"quantile": 0.9}}
    return against(default=DEFAULT, tuned_rates=(0.02, 0.01, 0.03)) | {
        "space": {"search": search},
        "perturbation": moved,
    }


LOG = {"low": 0.1, "high": 10.0, "log": True}
LINEAR = {"low": 0.0, "high": 0.9, "log": False}


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"lambda_cross": LOG, "learning_rate": LOG}, "0.040; the lambdas add 0.020"),
        ({"lambda_cross": LOG, "frequency_scale": LOG}, "the lambdas and the frequency scale add 0.020"),
        ({"learning_rate": LOG, "momentum": LINEAR}, "0.040; the other hyperparameters add 0.020"),
        ({"lambda_cross": LOG}, "With every hyperparameter moved at random by up to a factor of 2 either way, nine"),
        ({"momentum": LINEAR}, "With every hyperparameter moved at random by up to 30 % of its range either way, nine"),
        ({"lambda_cross": LOG, "momentum": LINEAR, "optimizer": {"choices": ["sgd", "adam"]}},
         "With every numeric hyperparameter moved at random by up to a factor of 2 either way (30 % of its range where that "
         "is not logarithmic), nine"),
    ],
)  # fmt: skip
def test_only_what_was_searched_is_told_of(search: dict[str, Any], told: str) -> None:
    assert told in text.verdict(searching(**search))


def test_a_recommendation_that_diverged_on_fresh_seeds_is_not_called_unconfirmed() -> None:
    report = {"recommended": {"a": 1}, "confirmation": {"recommended": {"mean": None, "std": None, "n": 10}}}
    told = text.verdict(report)
    assert told == "On 10 fresh seeds not every loss of the recommended setting was finite: do not trust it."
