"""The verdict: four lines that say what the data says, and what stands behind them."""

from __future__ import annotations

from typing import Any

import pytest
from fake_search import fake_content

from search.report.grounds import grounds
from search.report.model import Report
from search.report.robustness import sentence
from search.report.verdict import INDENT, Verdict

DEFAULT = (0.06, 0.05, 0.07)
NAN = float("nan")


def changed(change: Any = None, **confirmation: Any) -> Report:
    """The made-up report with other parts of `confirmation`, or after `change` of its content."""
    content, _, _ = fake_content(8)
    content["confirmation"] |= confirmation
    if change:
        change(content)
    return Report.model_validate(content)


def against(shrinkage: float = 0.02, **differences: Any) -> Report:
    """Trial 3 recommended, trial 5 the best of the search; setting -> (mean, low, high) of the difference to it."""

    def change(content: dict[str, Any]) -> None:
        own = content["confirmation"]
        own["recommended"]["trial"], own["best"]["trial"], own["shrinkage"] = 3, 5, shrinkage
        own["mmd"]["difference"] = None
        own["differences"] = {k: {"mean": m, "ci95": [low, high], "n": 8} for k, (m, low, high) in differences.items()}

    return changed(change)


def line(label: str, report: Report) -> str:
    return Verdict.of(report).lines()[label]


def test_it_has_numbers_and_four_short_lines() -> None:
    verdict = Verdict.of(changed())
    assert (verdict.score, verdict.std, verdict.n, verdict.trial) == (0.931, 0.009, 10, None)
    assert list(verdict.differences) == ["paper_default", "default", "mmd", "tuned_rates"]
    assert verdict.differences["default"].ci95 == (0.051, 0.075)
    assert verdict.test is not None
    assert (verdict.test.score, verdict.test.full_data, verdict.test.baseline) == (0.924, 0.966, "mmd")
    assert verdict.test.lead == pytest.approx(0.013) and verdict.test.share == pytest.approx(0.924 / 0.966)
    labels = ["recommended", "how sure", "against", "on test"]
    assert list(verdict.lines()) == labels
    assert [told[:INDENT].rstrip() for told in str(verdict).splitlines()] == labels
    assert all(len(told) < 260 for told in verdict.lines().values())


@pytest.mark.parametrize("width", [60, 100, 400])
def test_it_fits_a_terminal_and_no_interval_is_torn(width: int) -> None:
    verdict = Verdict.of(changed())
    for label, told in verdict.wrapped(width).items():
        first, *rest = told.splitlines()
        assert first.startswith(f"{label:<{INDENT}}") and len(first) <= width
        assert all(len(more) <= width and more[:INDENT].isspace() and more[INDENT] != " " for more in rest)
        assert " ".join(told.removeprefix(label).split()) == verdict.lines()[label]
        assert all(more.count("[") == more.count("]") and more.strip()[0] != "%" for more in (first, *rest))
    assert len(verdict.wrapped(60)["against"].splitlines()) > 2 and "\n" not in verdict.wrapped(400)["against"]


def test_what_is_recommended_is_said_in_a_phrase() -> None:
    def trials(own: int | None, best: int | None, paper: tuple[float, float, float] = DEFAULT) -> str:
        def change(content: dict[str, Any]) -> None:
            content["confirmation"]["recommended"]["trial"], content["confirmation"]["best"]["trial"] = own, best
            content["trials"] = {"completed": 34, "pruned": 14, "failed": 0}
            mean, low, high = paper
            content["confirmation"]["differences"]["paper_default"] = {"mean": mean, "ci95": [low, high], "n": 8}

        return line("recommended", changed(change))

    assert trials(17, 17) == "trial 17, the best of 34 completed trials (14 stopped early, 0 failed)"
    aside = trials(17, 17, (-0.01, -0.02, -0.005))
    assert aside == "trial 17, the best of 34 completed trials, the paper's default aside (14 stopped early, 0 failed)"
    other = trials(3, 17)
    assert (
        other
        == "trial 3, one of 34 completed trials (14 stopped early, 0 failed); the best score of the search was trial 17's"
    )
    model = trials(None, 17)
    assert model == "the plateau's setting, from a model of all trials (34 completed, 14 stopped early, 0 failed)"
    assert trials(3, None) == "trial 3, beside 34 completed trials (14 stopped early, 0 failed)"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((0.1, 0.05, 0.15), "+0.100 [0.050, 0.150] over the paper's default (95 %, paired)"),
        ((0.1, -0.05, 0.25),
         "+0.100 [−0.050, 0.250] over the paper's default: no difference is shown (95 %, paired)"),
        ((-0.1, -0.15, -0.05), "0.100 [0.050, 0.150] below the paper's default (95 %, paired)"),
        ((-0.1, -0.25, 0.05),
         "−0.100 [−0.250, 0.050] over the paper's default: no difference is shown (95 %, paired)"),
        ((0.1, NAN, NAN), "+0.100 over the paper's default, no interval known (95 %, paired)"),
        ((NAN, NAN, NAN), "nothing: no other setting has a score"),
    ],
)  # fmt: skip
def test_it_claims_no_more_than_the_interval(found: tuple[float, float, float], told: str) -> None:
    assert line("against", against(paper_default=found)) == told


def test_all_that_it_has_to_beat_is_named_in_one_line() -> None:
    told = line(
        "against", against(best=DEFAULT, tuned_rates=(0.02, 0.01, 0.03), default=DEFAULT, paper_default=DEFAULT)
    )
    assert told == (
        "+0.060 [0.050, 0.070] over the paper's default; +0.060 [0.050, 0.070] over the project's default; "
        "+0.020 [0.010, 0.030] over tuned learning rates alone (95 %, paired)"
    )


def test_a_default_that_is_recommended_is_not_compared_with_itself() -> None:
    """`difference` is there in any case, for who reads the JSON; the verdict goes by `differences`."""
    report = against(paper_default=(0.02, 0.01, 0.03))
    assert report.confirmation.difference.against == "default"
    assert set(Verdict.of(report).differences) == {"paper_default"}


def test_it_claims_nothing_of_a_setting_that_diverged_or_was_not_run() -> None:
    def change(content: dict[str, Any]) -> None:
        del content["confirmation"]["tuned_rates"]
        del content["confirmation"]["differences"]["tuned_rates"]
        for part in (content["confirmation"]["paper_default"], content["confirmation"]["differences"]["paper_default"]):
            part["mean"] = NAN

    report = changed(change)
    told = line("against", report)
    assert told.endswith("groups); no score for the paper's default: not every loss was finite")
    assert "+0.063 [0.051, 0.075] over the project's default" in told
    assert "tuned learning" not in told + grounds(report)


def test_a_recommendation_that_diverged_on_fresh_seeds_is_not_trusted() -> None:
    content, _, _ = fake_content(8)
    lost = content["confirmation"]["recommended"] | {"mean": NAN, "std": NAN, "score": NAN}
    report = changed(recommended=lost)
    assert line("how sure", report) == "do not trust it: not every loss was finite on 10 fresh seeds"
    assert grounds(report) == ""


def test_one_seed_is_one_seed() -> None:
    content, _, _ = fake_content(8)
    once = content["confirmation"]["recommended"] | {"n": 1}
    assert "of full-data accuracy on 1 fresh seed; nine" in line("how sure", changed(recommended=once))


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (against(default=DEFAULT, tuned_rates=(0.02, 0.01, 0.03)),
         "Of the 0.060 over the project's default, tuning the learning rates alone gives 0.040; the lambdas and the "
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
        (against(default=DEFAULT), "The best trial's score in the search was 0.020 higher, because"),
        (against(-0.02, default=DEFAULT), "The best trial's score in the search was 0.020 lower, so it was not merely a"),
        (against(0.0, default=DEFAULT), "The best trial's score in the search was the same as on fresh seeds."),
    ],
)  # fmt: skip
def test_the_lambdas_gain_is_told_from_the_rates_and_luck_from_skill(report: Report, told: str) -> None:
    assert told in grounds(report)


def test_what_several_seeds_would_have_chosen() -> None:
    content, _, _ = fake_content(8)
    single = content["confirmation"]["best_single_seed"]
    cost = "Choosing by a single seed would have cost 0.022 [0.013, 0.031]"
    assert f"{cost}, the mean over what 3 seeds would have chosen." in grounds(changed())
    assert f"{cost}." in grounds(changed(best_single_seed={**single, "trials": [22]}))
    lost = changed(best_single_seed={**single, "mean": NAN})
    assert "would have chosen, one had a loss that was not finite on fresh seeds." in grounds(lost)


@pytest.mark.parametrize(("mean", "aside"), [(-0.01, ", the paper's default aside"), (0.01, "")])
def test_it_says_where_the_best_trial_is_recommended(mean: float, aside: str) -> None:
    """The paper's default may be better: it cannot be recommended."""

    def change(content: dict[str, Any]) -> None:
        own = content["confirmation"]
        own["recommended"]["trial"] = own["best"]["trial"]
        own["differences"]["paper_default"] = {"mean": mean, "ci95": [mean - 0.005, mean + 0.005], "n": 8}

    assert f"It is the search's best trial{aside}; its score in the search was 0.014 higher" in grounds(changed(change))


LOG = {"low": 0.1, "high": 10.0, "log": True}
LINEAR = {"low": 0.0, "high": 0.9, "log": False}


def searching(**search: dict[str, Any]) -> Report:
    def change(content: dict[str, Any]) -> None:
        content["space"]["search"] = search

    return changed(change)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"lambda_cross": LOG, "learning_rate": LOG}, "0.044; the lambdas add 0.019"),
        ({"lambda_cross": LOG, "frequency_scale": LOG}, "the lambdas and the frequency scale add 0.019"),
        ({"learning_rate": LOG, "momentum": LINEAR}, "0.044; the other hyperparameters add 0.019"),
    ],
)
def test_only_what_was_searched_is_told_of(search: dict[str, Any], told: str) -> None:
    assert told in grounds(searching(**search))


@pytest.mark.parametrize(
    ("search", "short", "long"),
    [
        ({"lambda_cross": LOG}, "with every value moved by up to a factor of 2",
         "With every hyperparameter moved at random by up to a factor of 2 either way (24 runs), nine"),
        ({"momentum": LINEAR}, "with every value moved by up to 30 % of its range",
         "With every hyperparameter moved at random by up to 30 % of its range either way (24 runs), nine"),
        ({"lambda_cross": LOG, "momentum": LINEAR, "optimizer": {"choices": ["sgd", "adam"]}},
         "with every numeric value moved by up to a factor of 2 (30 % of its range where that is not logarithmic)",
         "With every numeric hyperparameter moved at random by up to a factor of 2 either way (30 % of its range where that "
         "is not logarithmic) (24 runs), nine"),
    ],
)  # fmt: skip
def test_how_far_values_were_moved_is_told_by_the_space(search: dict[str, Any], short: str, long: str) -> None:
    report = searching(**search)
    told = line("how sure", report)
    assert told.endswith(short) and "; nine runs in ten (of 24) reach 0.919 with " in told
    assert sentence(report).startswith(long)


def test_without_runs_nothing_is_said_of_moved_values() -> None:
    def change(content: dict[str, Any]) -> None:
        content["perturbation"] = None

    report = changed(change)
    assert (
        line("how sure", report) == "0.931 ± 0.009 of full-data accuracy on 10 fresh seeds" and sentence(report) == ""
    )


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ({"recommended": 0.9, "default": 0.95, "random": 0.5, "mmd": 0.92, "full_data": 1.0},
         "accuracy 0.900, 90 % of full data (1.000); 0.020 below the best baseline, MMD"),
        ({"recommended": 0.9, "mmd": 0.85, "herding": 0.8}, "accuracy 0.900; 0.050 above the best baseline, MMD"),
        ({"recommended": 0.9, "mmd": 0.9002}, "accuracy 0.900; level with the best baseline, MMD"),
        ({"recommended": 0.9, "full_data": 0.95}, "accuracy 0.900, 94.7 % of full data (0.950)"),
        ({"recommended": NAN, "random": 0.5}, "no score: not every loss was finite"),
    ],
)  # fmt: skip
def test_on_test_it_names_the_best_baseline(test: dict[str, float], told: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["test"] = {
            key: {"mean": mean, "std": 0.01, "n": 10} for key, mean in test.items()
        }  # of earlier versions

    assert line("on test", changed(change)) == told


@pytest.mark.parametrize(
    ("metric", "told"),
    [("retrieval", "retrieval recall 0.924"), ("score", "score 0.924"), ("accuracy", "accuracy 0.924")],
)
def test_it_says_what_is_judged(metric: str, told: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metric"] = metric

    report = changed(change)
    assert line("on test", report).startswith(told)
    assert f"of full-data {told.rpartition(' ')[0]} on 10" in line("how sure", report)


def test_a_majority_does_not_hide_what_becomes_of_the_small_classes() -> None:
    def change(content: dict[str, Any]) -> None:
        content["test"]["recommended"] |= {"balanced": 0.5, "ci95": [0.9, 0.95]}

    assert line("on test", changed(change)).startswith("accuracy 0.924 [0.900, 0.950] (mean over classes: 0.500), 9")
