"""The report's figures: what they show of the data, and that gaps in it do not break them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_search import OPTIMUM, TASKS, fake_content, fake_search

from search.report import figures, pareto, tasks
from search.report.confirmation import confirmation
from search.report.importance import bars, importance
from search.report.model import Report
from search.report.parallel import parallel
from search.report.pareto import scatter, step_shape
from search.report.response import levels, pair_map, response
from search.report.robustness import moved_runs, ranges, searched_range
from search.report.tables import settings_table
from search.report.trials import Trial


def test_history_tells_ways_of_ending_apart() -> None:
    _, trials, _ = fake_search()
    figure = figures.history(trials)
    assert figure is not None
    traces = {trace.name: trace for trace in figure.data}
    assert traces["completed"].marker.symbol == "circle" and traces["pruned"].marker.symbol == "circle-open"
    assert list(traces["failed (no score)"].x) == [7]
    best = list(traces["best so far"].y)
    assert best == sorted(best) and best[-1] == max(
        t.score for t in trials if t.status == "completed" and t.score is not None
    )
    assert any(str(name).startswith("paper's default") for name in traces)


def test_the_papers_default_is_never_called_the_best_trial() -> None:
    """It cannot be recommended, and the text does not count it either."""
    _, trials, _ = fake_search()
    best_of_all: dict[str, Any] = {"status": "completed", "score": 2.0, "progress": [(100, 2.0)]}
    trials = [replace(t, **best_of_all) if t.name == "paper_default" else t for t in trials]
    history, progress = figures.history(trials), figures.progress(trials)
    assert history is not None and progress is not None
    (best,) = [trace for trace in history.data if trace.name == "best so far"]
    assert max(best.y) < 2
    (best,) = [trace for trace in progress.data if trace.name == "best trial"]
    assert max(y for y in best.y if y is not None) < 2


def test_what_was_searched_is_told_by_the_space() -> None:
    """Two proposals may share a value by chance: it was not fixed for that."""
    report, trials, _ = fake_search()
    table = settings_table(report, [replace(t, params={**t.params, "lambda_cross": 0.3}) for t in trials])
    assert "<code>lambda_<wbr>cross</code>" in table
    assert "lambda_cross" not in table.partition("Fixed in this search")[2]


def test_response_is_logarithmic_marks_the_recommendation_and_leaves_out_the_papers_scaling() -> None:
    report, trials, _ = fake_search()
    figure = response(trials, "lambda_cross", report)
    assert figure is not None and figure.layout.xaxis.type == "log"
    shown = {trace.name: trace for trace in figure.data}
    completed = [t for t in trials if t.status == "completed" and t.name != "paper_default"]
    assert list(shown["completed"].y) == [t.score_mean for t in completed]
    assert list(shown["completed"].error_y.array) == [t.score_std for t in completed]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.06, 0.3]  # the robust range, the recommended value
    assert list(shown["model"].y) == report.response["lambda_cross"].mean
    assert len(shown["band"].x) == 2 * len(shown["model"].x)
    narrow = [Trial(n, "completed", {"x": 1.0 + n}, score=0.5) for n in range(4)]
    linear = response(narrow, "x", report)
    assert linear is not None and linear.layout.xaxis.type is None


def test_parallel_coordinates_draw_every_scored_trial_once() -> None:
    report, trials, _ = fake_search()
    figure = parallel(trials, report.recommended)
    assert figure is not None
    numbers = {
        n for trace in figure.data for n in (trace.customdata if trace.customdata is not None else ()) if n is not None
    }
    assert numbers == {t.number for t in trials if t.score is not None and t.name != "paper_default"}
    places = [x for trace in figure.data for x in trace.x if x is not None]
    assert min(places) == 0 and max(places) == 1


def test_response_leaves_gaps_of_the_curve_out() -> None:
    content, trials, _ = fake_content()
    curve = content["response"]["lambda_cross"]
    curve["mean"][3] = curve["low"][5] = float("nan")
    figure = response(trials, "lambda_cross", Report.model_validate(content))
    assert figure is not None
    assert len(next(trace for trace in figure.data if trace.name == "model").x) == len(curve["values"]) - 2


def test_maps_share_their_levels_and_mark_the_recommended_setting() -> None:
    report, trials, _ = fake_search()
    maps = [pair_map(grid, levels(report.response_pairs), report, trials) for grid in report.response_pairs]
    assert len({(m.data[0].contours.start, m.data[0].contours.size) for m in maps}) == 1
    diamond = next(trace for trace in maps[0].data if trace.name == "recommended")
    assert (diamond.x[0], diamond.y[0]) == (OPTIMUM["lambda_cross"], OPTIMUM["lambda_joint"])
    assert maps[0].layout.xaxis.type == maps[0].layout.yaxis.type == "log"


def test_ranges_lie_inside_what_was_searched() -> None:
    content, _, _ = fake_content()
    figure = ranges(Report.model_validate(content))
    assert figure is not None
    marks = {trace.name: trace for trace in figure.data}
    assert marks["recommended"].x[0] == pytest.approx((np.log10(0.3) + 2) / 4)
    assert marks["project's default"].x[0] == pytest.approx(0.75)
    assert all(0 <= shape.x0 < shape.x1 <= 1 for shape in figure.layout.shapes)
    content["default"]["lambda_cross"] = 1000.0
    outside = ranges(Report.model_validate(content))
    assert outside is not None
    default = next(trace for trace in outside.data if trace.name == "project's default")
    assert default.x[0] == 1 and default.marker.symbol[0] == "triangle-right-open"


def test_only_what_was_searched_in_a_range_has_one() -> None:
    content, _, _ = fake_content()
    content["space"]["search"]["optimizer"] = {"choices": ["sgd", "adam"]}
    report = Report.model_validate(content)
    found = searched_range(report.space, "frequency_scale")
    assert found is not None and (found.low, found.high, found.log) == (0.1, 4.0, True)
    assert searched_range(report.space, "optimizer") is searched_range(report.space, "unknown") is None


def test_moved_runs_are_all_shown() -> None:
    content, _, _ = fake_content()
    figure = moved_runs(Report.model_validate(content))
    assert figure is not None and list(figure.data[0].x) == content["perturbation"]["recommended"]["values"]
    assert list(figure.layout.yaxis.ticktext) == ["<b>recommended</b>", "best trial"]
    content["perturbation"]["recommended"]["values"] = [float("nan")]
    content["perturbation"]["best"] = None
    assert moved_runs(Report.model_validate(content)) is None
    assert moved_runs(Report.model_validate(content | {"perturbation": None})) is None


def test_tasks_are_compared_setting_by_setting() -> None:
    report, _, _ = fake_search()
    measured = tasks.per_task(report.confirmation, len(TASKS))
    assert list(measured) == [
        "recommended",
        "best",
        "tuned_rates",
        "default",
        "paper_default",
        "mmd",
    ]
    figure = tasks.by_task(TASKS, measured)
    assert [trace.name for trace in figure.data][:2] == ["recommended", "default lambdas, tuned learning rates"]
    assert list(figure.data[0].x) == [entry.mean for entry in report.confirmation.recommended.tasks]
    assert tasks.per_task(report.confirmation, 2) == {}
    content, _, _ = fake_content()
    alone = content | {"tasks": content["tasks"][:1], "transfer": None}
    assert tasks.section(Report.model_validate(alone)) == ""


def test_estimates_of_importance_stand_side_by_side() -> None:
    report, _, _ = fake_search()
    figure = importance(report)
    assert figure is not None and {bar.name for bar in figure.data} == {"PED-ANOVA", "fANOVA"}
    assert list(figure.data[0].y)[-1] == "frequency_scale"  # the largest on top
    alone = importance(report.model_copy(update={"importance_fanova": {}}))
    assert alone is not None and len(alone.data) == 1


@pytest.mark.parametrize(
    ("signs", "shape"), [((1, 1), "vh"), ((1, -1), "vh"), ((-1, 1), "hv"), ((-1, -1), "hv")]
)  # fmt: skip
def test_front_turns_on_the_side_of_the_worse_trials(signs: tuple[int, int], shape: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(size=(40, 2))
    front = [not any((other >= own).all() and (other != own).any() for other in values) for own in values]
    points = [(n, [signs[0] * a, signs[1] * b], on) for n, ((a, b), on) in enumerate(zip(values, front, strict=True))]
    assert step_shape(points) == shape
    assert scatter(["a", "b"], points, (0, 1)).data[0].line.shape == shape


def test_three_objectives_are_drawn_in_pairs() -> None:
    content, _, _ = fake_content(8)
    points = [{"number": n, "values": [n, -n, n % 3], "front": n < 2} for n in range(6)]

    def section(objectives: list[str]) -> str:
        return pareto.section(Report.model_validate(content | {"pareto": {"objectives": objectives, "trials": points}}))

    drawn = section(["a", "b", "c"])
    assert drawn.count('<div class="plot"') == 3 and "2 of 6 trials are on the front" in drawn
    assert section(["a"]) == pareto.section(Report.model_validate(content | {"pareto": None})) == ""


def test_confirmation_names_all_that_was_run_again() -> None:
    report, _, _ = fake_search()
    figure = confirmation(report.confirmation)
    assert figure is not None and len(figure.layout.yaxis.ticktext) == 7
    assert figure.layout.yaxis.ticktext[3] == "default lambdas,<br>tuned learning rates"


def test_loss_that_is_a_gain_keeps_its_number_off_the_names() -> None:
    figure = bars({"loss": {"lambda_cross": 0.02, "lambda_joint": -0.001}}, "loss of score")
    assert figure is not None
    assert list(figure.data[0].text) == ["", "0.02"]
    assert [(note.y, note.text) for note in figure.layout.annotations] == [("lambda_joint", "−0.001")]
