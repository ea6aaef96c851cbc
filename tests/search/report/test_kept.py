"""The verdict where a published setting is kept, and what its intervals say they cover."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from fake_search import fake_content

from search.report.around import BestTried
from search.report.grounds import grounds
from search.report.model import Report
from search.report.response import curve
from search.report.robustness import ranges
from search.report.robustness import section as robustness
from search.report.tables import settings_table
from search.report.text import comparable, good_range, has_no_effect, marked, no_range
from search.report.verdict import Verdict, covered
from search.summary import values


def kept(published: str = "mmd", saturated: bool = False, **verdict: Any) -> Report:
    content, _, _ = fake_content(8)
    content["recommended"] |= {"lambda_cross": 0.0, "frequency_scale": None}
    content["robust_region"], content["perturbation"] = {}, None
    own = content["confirmation"]
    own["challenger"] = {**own["best"], "trial": 5}
    own["differences"] |= {
        "challenger": {"mean": 0.001, "ci95": [-0.004, 0.006], "n": 10, "covers": ["seeds", "groups"]}
    }
    del own["differences"][published]
    content["verdict"] |= {"keep_default": True, "published": published, "challenger": "trial 5", "trial": 5}
    content["verdict"] |= {"saturated": saturated, "limit": "ceiling" if saturated else None}
    content["verdict"]["difference"] = {"mean": 0.002, "ci95": [-0.006, 0.01], "n": 10}
    content["verdict"] |= verdict
    return Report.model_validate(content)


@pytest.mark.parametrize(
    ("published", "name"),
    [("mmd", "MMD"), ("paper_default", "the paper's default"), ("default", "the project's default")],
)
def test_what_is_kept_is_named_with_the_figures(published: str, name: str) -> None:
    verdict = Verdict.of(kept(published))
    assert verdict.keep_default and not verdict.saturated
    assert verdict.what == (
        f"keep {name}: no setting tried is better by more than the data can show (the best setting tried, trial 5: "
        "+0.002 [−0.006, 0.010] over it, 95 % for the best of 39 settings)"
    )
    against = verdict.lines()["against"]
    assert f"over {name}" not in against
    assert "+0.001 [−0.004, 0.006] over the best setting tried, trial 5: no difference is shown" in against
    assert against.endswith("(95 %, paired, over seeds and groups)")
    assert ("over the paper's default" in verdict.lines()["on test"]) == (published != "paper_default")


def test_nothing_is_said_to_be_gained_by_what_was_published_before() -> None:
    assert "tuning the learning rates" not in grounds(kept())
    assert "search's best trial" in grounds(kept())


def test_a_score_that_no_seed_changes_is_not_shown_as_certain() -> None:
    report = kept()
    drawn = Verdict.of(report).lines()["how sure"]
    steady = dataclasses.replace(Verdict.of(report), std=0.0).lines()["how sure"]
    assert "±" in drawn and "the same" not in drawn
    assert "±" not in steady and "accuracy, the same on " in steady


@pytest.mark.parametrize(("published", "own"), [("mmd", True), ("paper_default", True), ("default", False)])
def test_numbers_in_another_loss_scaling_say_so(published: str, own: bool) -> None:
    report = kept(published)
    assert (values(report)[-1] == "in a loss scaling of its own: best.yaml has the whole setting") == own
    assert ("loss scaling of its own" in no_range(report)) == own
    assert (comparable(report) == {}) == own  # else its learning rates would be drawn among the trials'


def test_without_a_trusted_model_the_report_says_why_there_are_no_ranges() -> None:
    content, _, _ = fake_content(8)
    content["robust_region"], content["response"], content["response_pairs"] = {}, {}, []
    content["surrogate"] = {"trials": 40, "loo_rmse": 0.01, "loo_r2": 0.06, "coverage": 0.95, "trusted": False}
    told = no_range(Report.model_validate(content))
    assert told.startswith("No robust range is shown by the data: a model of 40 trials") and "r² 0.06" in told
    assert "lies outside of what was searched" in no_range(kept())


def with_best_tried(published: str = "mmd", trial: int | None = 5) -> Report:
    """As `kept`, with what a model knows around the best setting tried."""
    content, _, _ = fake_content(8)
    known = {key: content[key] for key in ("robust_region", "response", "response_pairs")}
    tried = {"trial": trial, "params": dict(content["recommended"]), **known}
    return kept(published).model_copy(
        update={"best_tried": BestTried.model_validate(tried), "response": {}, "response_pairs": []}
    )


def test_ranges_of_what_was_searched_are_told_where_none_of_what_is_kept_is_known() -> None:
    report = with_best_tried()
    assert not report.robust_region and report.modelled is report.best_tried
    line = Verdict.of(report).lines()["searched"]
    assert line.startswith("the best setting tried, trial 5: lambda_cross ")
    assert "lambda_joint 0.1, good from 0.02 to 0.5" in line
    assert "searched" not in Verdict.of(kept()).lines()
    assert not any("good from" in value for value in values(report))  # those are not the ranges of what is kept
    assert no_range(report).endswith(" Ranges and curves are those around the best setting tried, trial 5.")
    table = settings_table(report, [])
    assert "best tried" in table and "its robust range" in table and "0.02 – 0.5" in table
    assert Report.model_validate(report.as_json()).best_tried == report.best_tried


def test_the_page_draws_curves_and_ranges_around_the_best_setting_tried() -> None:
    report = with_best_tried(trial=None)
    assert curve(report, "lambda_cross") and not curve(kept().model_copy(update={"response": {}}), "lambda_cross")
    name, values_there, score = marked(report)
    assert (name, score) == ("best setting tried", report.confirmation.challenger)
    assert report.best_tried is not None and values_there == report.best_tried.params
    told = robustness(report)
    assert "as in the best setting tried, the plateau" in told and "Robust range of each hyperparameter" in told
    drawn = ranges(report)
    assert drawn is not None and {trace.name for trace in drawn.data} == {"project's default", "best setting tried"}
    assert marked(kept("default"))[:2] == ("recommended", comparable(kept("default")))


def test_what_the_space_fixes_otherwise_is_named() -> None:
    told = Verdict.of(kept("paper_default", unlike_fixed={"lambda_joint": 10.0, "scaling": "paper"})).what
    assert told.startswith("keep the paper's default (unlike what the space fixes: lambda_joint 10, scaling paper): no")
    lost = Verdict.of(kept(difference={"mean": None, "ci95": [None, None], "n": 10})).what
    assert lost == "keep MMD: no setting tried could be compared with it"


def test_a_saturated_score_is_a_line_of_its_own() -> None:
    lines = Verdict.of(kept(saturated=True)).lines()
    assert list(lines) == ["recommended", "how sure", "against", "on test", "beware"]
    assert lines["beware"].startswith("the score is at its ceiling (the best quarter of the trials: 99% right or more)")
    assert "smaller `dpc`" in lines["beware"] and "`group`" in lines["beware"]


def test_values_that_have_no_effect_say_so() -> None:
    assert {"lambda_cross          0", "frequency_scale       no effect"} <= set(values(kept()))


@pytest.mark.parametrize(
    ("covers", "groups", "told"),
    [
        ([], None, "95 %, paired"),
        (["seeds"], None, "95 %, paired, over seeds, on these items"),
        (["seeds", "items"], None, "95 %, paired, over seeds and items"),
        (["seeds", "items"], 3, "95 %, paired, over seeds and items of 3 groups only"),
        (["seeds", "groups"], 20, "95 %, paired, over seeds and groups"),
    ],
)
def test_intervals_say_what_they_cover(covers: list[str], groups: int | None, told: str) -> None:
    assert covered(covers, groups) == told
    in_folds = told if len(covers) < 2 else f"{told}, in 3 folds"
    assert covered(covers, groups, 3) == in_folds


def test_no_range_is_good_that_is_the_whole_range() -> None:
    content, _, _ = fake_content(8)
    content["robust_region"]["lambda_cross"] = [0.01, 100.0]
    report = Report.model_validate(content)
    assert has_no_effect(report, "lambda_cross") and not has_no_effect(report, "lambda_joint")
    assert good_range(report, "lambda_cross") == "no effect seen over the range"
    assert good_range(report, "lambda_joint") == "good from 0.02 to 0.5"
    content["robust_region"]["lambda_cross"] = [0.01, 50.0]
    assert good_range(Report.model_validate(content), "lambda_cross") == "good from 0.01 to 50"


def test_json_keeps_all_of_it() -> None:
    report = kept("default", saturated=True)
    again = Report.model_validate(json.loads(json.dumps(report.as_json())))
    assert again == report
    found = again.as_json()
    assert found["verdict"].keys() >= {"text", "keep_default", "saturated", "covers"}
    assert found["validation"] == {"groups": 20, "by": "group", "folds": None}
    assert found["test"]["recommended"]["difference"].keys() == {"paper_default", "best_baseline"}
